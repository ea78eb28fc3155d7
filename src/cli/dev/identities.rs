//! The identities of the development gateway: an administrator and one client per tenant, with their secrets in
//! `.warrengate/dev.env`, readable by its owner only.

use std::{collections::BTreeMap, path::Path};

use secrecy::{ExposeSecret as _, SecretString};

use crate::{
    cli::{Error, dev_env::DevEnv},
    client::Client,
    pb, pki,
};

/// The contents of `dev.env`.
pub(super) struct Identities {
    gateway: BTreeMap<&'static str, String>,
    clients: BTreeMap<String, (String, SecretString)>,
}

impl Identities {
    /// The identities of an earlier run.
    pub(super) fn read(path: &Path) -> Result<Self, Error> {
        let mut clients = BTreeMap::new();
        if let Some(file) = DevEnv::read(path)? {
            for name in file.identities() {
                let name = name.to_uppercase();
                let id = file.get(&format!("WARRENGATE_{name}_CLIENT_ID"));
                let secret = file.get(&format!("WARRENGATE_{name}_CLIENT_SECRET"));
                if let (Some(id), Some(secret)) = (id, secret) {
                    clients.insert(name, (id, secret.into()));
                }
            }
        }
        Ok(Self { gateway: BTreeMap::new(), clients })
    }

    pub(super) fn admin(&self) -> Option<(String, SecretString)> {
        self.clients.get("ADMIN").cloned()
    }

    pub(super) fn of(&self, name: &str) -> Result<(String, SecretString), Error> {
        self.clients.get(name).cloned().ok_or_else(|| Error::Failed(format!("identity {name} does not exist")))
    }

    pub(super) fn keep(&mut self, name: &str, id: &str, secret: &SecretString) {
        self.clients.insert(name.to_owned(), (id.to_owned(), secret.clone()));
    }

    pub(super) fn set_gateway(&mut self, endpoint: &str, ca: &Path) {
        self.gateway.insert("WARRENGATE_ENDPOINT", endpoint.to_owned());
        self.gateway.insert("WARRENGATE_CA", ca.display().to_string());
    }

    /// Creates or repairs a tenant and its client `app`. Returns the changes at the broker.
    pub(super) async fn ensure_tenant(&mut self, admin: &Client, tenant: &str) -> Result<Vec<String>, Error> {
        let request = pb::CreateTenantRequest {
            tenant: Some(pb::Tenant { id: tenant.to_owned(), ..pb::Tenant::default() }),
            ..pb::CreateTenantRequest::default()
        };
        let changes = admin.admin().create_tenant(request).await?.into_inner().changes;
        let name = tenant.to_uppercase();
        if self.clients.contains_key(&name) {
            return Ok(changes);
        }
        let client_id = format!("{tenant}.app");
        let everything = pb::Grants {
            publish: vec![pb::PublishGrant { exchange: "#".to_owned(), routing_key: "#".to_owned() }],
            subscribe: vec!["#".to_owned()],
            configure: vec!["#".to_owned()],
            administer: false,
            observe: true,
        };
        let client = pb::Client { client_id: client_id.clone(), grants: Some(everything), ..pb::Client::default() };
        let request = pb::CreateClientRequest { client: Some(client), ..pb::CreateClientRequest::default() };
        let secret = match admin.admin().create_client(request).await {
            Ok(created) => created.into_inner().client_secret,
            // The secret is lost.
            Err(status) if status.code() == tonic::Code::AlreadyExists => {
                let request = pb::RotateClientSecretRequest { client_id: client_id.clone(), overlap: None };
                admin.admin().rotate_client_secret(request).await?.into_inner().client_secret
            }
            Err(status) => return Err(status.into()),
        };
        self.keep(&name, &client_id, &secret.into());
        Ok(changes)
    }

    pub(super) fn write(&self, path: &Path) -> Result<(), Error> {
        let mut text =
            String::from("# Written by `warrengate dev`, for this machine only. `--as NAME` chooses an identity.\n");
        for (name, value) in &self.gateway {
            text += &format!("{name}=\"{value}\"\n");
        }
        for (name, (id, secret)) in &self.clients {
            text += &format!("WARRENGATE_{name}_CLIENT_ID={id}\n");
            text += &format!("WARRENGATE_{name}_CLIENT_SECRET={}\n", secret.expose_secret());
        }
        pki::write_secret(path, &text).map_err(|error| Error::Other(error.into()))
    }
}
