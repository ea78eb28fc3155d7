//! What a tenant has at the broker, and how it is made, repaired and removed. The order matters: a user comes last and goes
//! first, so that nobody can enter a vhost whose limits are not there. Requests are repeatable, so two gateways at once end
//! in the same state; within one gateway a tenant's acts wait for each other.

use std::path::Path;

use rabbitmq_http_client::{
    commons::VirtualHostLimitTarget as Limit,
    requests::{EnforcedLimitParams, Permissions, UserParams, VirtualHostParams},
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{
    DEAD_LETTERS, Error,
    api::Api,
    policies,
    rows::{BindingInfo, QueueInfo},
};
use crate::{
    broker::{DEAD_LETTER_QUEUE_ARGUMENTS, OWN_QUEUES},
    config::ManagementConfig,
    names::TenantId,
    tenant::{Plan, TenantLocks},
};

const EVERYTHING: &str = ".*";

/// Makes, repairs and removes what tenants have at the broker.
#[derive(Debug)]
pub struct Provisioner {
    api: Api,
    /// The administrator's own user name.
    user: String,
    /// A tenant's acts wait for each other.
    locks: TenantLocks,
}

/// A tenant's names at the broker, and what was changed so far.
struct TenantResources {
    tenant: TenantId,
    /// The vhost's name and the user's.
    name: String,
    changes: Vec<String>,
    /// Only look.
    dry_run: bool,
}

impl Provisioner {
    /// Reads the broker's CA, the certificate, its key and the password; asks nothing of the broker yet.
    ///
    /// # Errors
    /// [`Error::Settings`] when an address, the CA, the certificate or the key cannot be used.
    pub fn new(config: &ManagementConfig, broker_ca: &Path) -> Result<Self, Error> {
        let api = Api::new(config, broker_ca)?;
        Ok(Self { api, user: config.user.clone(), locks: TenantLocks::default() })
    }

    /// Takes the CA, the certificate, its key and the password anew whenever their files change, until stopped.
    pub async fn follow_files(&self, stop: CancellationToken) {
        self.api.follow_files(stop).await;
    }

    /// Gives the administrator itself another password, by its hash in RabbitMQ's form.
    ///
    /// # Errors
    /// When the broker cannot be asked, or refuses.
    pub async fn set_own_password(&self, hash: &str) -> Result<(), Error> {
        let me = &UserParams::administrator(&self.user, hash);
        self.api.call(|link| async move { link.client.create_user(me).await }).await
    }

    /// Whether the broker's administration answers and accepts us.
    ///
    /// # Errors
    /// [`Error::Unavailable`] or [`Error::Refused`].
    pub async fn ready(&self) -> Result<(), Error> {
        let me = self.api.call(|link| async move { link.get(&["whoami"], &[]).await }).await?;
        let is_administrator = me.is_some_and(|me| match &me["tags"] {
            Value::Array(tags) => tags.iter().any(|tag| tag == "administrator"),
            Value::String(tags) => tags.split(',').any(|tag| tag.trim() == "administrator"),
            _ => false,
        });
        if is_administrator {
            Ok(())
        } else {
            Err(Error::settings(format!("the broker user {} has no administrator tag", self.user)))
        }
    }

    /// Makes what is missing and repairs what drifted; says what it changed, a line each. Nothing changes when all stood
    /// already, and messages are never touched.
    ///
    /// # Errors
    /// When the broker cannot be asked; run it again then.
    pub async fn ensure_tenant(&self, tenant: &TenantId, plan: &Plan) -> Result<Vec<String>, Error> {
        let _one_at_a_time = self.locks.lock(tenant).await;
        let mut wall = TenantResources::of(tenant, false);
        self.walk(&mut wall, plan).await?;
        if !wall.changes.is_empty() {
            tracing::info!(%tenant, changes = ?wall.changes, "tenant reconciled at the broker");
        }
        Ok(wall.changes)
    }

    /// What [`Self::ensure_tenant`] would change, a line each; changes nothing. What is inside a vhost that is missing cannot be
    /// looked at, and is not named.
    ///
    /// # Errors
    /// When the broker cannot be asked.
    pub async fn drift(&self, tenant: &TenantId, plan: &Plan) -> Result<Vec<String>, Error> {
        let _one_at_a_time = self.locks.lock(tenant).await;
        let mut wall = TenantResources::of(tenant, true);
        self.walk(&mut wall, plan).await?;
        Ok(wall.changes)
    }

    async fn walk(&self, wall: &mut TenantResources, plan: &Plan) -> Result<(), Error> {
        if self.vhost(wall).await? {
            self.limits(wall, plan).await?;
            wall.changes.extend(policies::ensure(&self.api, &wall.name, plan, wall.dry_run).await?);
            self.dead_letters(wall).await?;
        }
        if self.user(wall).await? {
            self.permissions(wall).await?;
        }
        Ok(())
    }

    /// All vhosts and users at the broker that are called like tenants', as "vhost wg.acme" and "user wg.acme".
    ///
    /// # Errors
    /// When the broker cannot be asked.
    pub async fn claimed(&self) -> Result<Vec<String>, Error> {
        let mut claimed = Vec::new();
        for (path, what) in [("vhosts", "vhost"), ("users", "user")] {
            let query = [("columns", "name")];
            let answer = self.api.call(|link| async move { link.get(&[path], &query).await }).await?;
            let names = answer.ok_or(Error::TooLarge)?;
            let names = names.as_array().into_iter().flatten().filter_map(|row| row.get("name")?.as_str());
            claimed.extend(names.filter(|name| name.starts_with("wg.")).map(|name| format!("{what} {name}")));
        }
        Ok(claimed)
    }

    /// Brings the limits that the broker holds in line with a plan, and touches nothing else; says what it changed, a line
    /// each. A tenant that is not there stays so.
    ///
    /// # Errors
    /// When the broker cannot be asked; run it again then.
    pub async fn ensure_limits(&self, tenant: &TenantId, plan: &Plan) -> Result<Vec<String>, Error> {
        let _one_at_a_time = self.locks.lock(tenant).await;
        let mut wall = TenantResources::of(tenant, false);
        let name = &wall.name;
        match self.api.call(|link| async move { link.client.get_vhost(name).await }).await {
            Ok(_) => {}
            Err(Error::NotFound) => return Ok(wall.changes),
            Err(other) => return Err(other),
        }
        self.limits(&mut wall, plan).await?;
        wall.changes.extend(policies::ensure(&self.api, &wall.name, plan, false).await?);
        if !wall.changes.is_empty() {
            tracing::info!(%tenant, changes = ?wall.changes, "tenant's limits changed at the broker");
        }
        Ok(wall.changes)
    }

    pub(super) fn api(&self) -> &Api {
        &self.api
    }

    /// Removes the tenant's user, which closes its connections, and then its vhost with every queue and message in it.
    /// Harmless when they are gone already.
    ///
    /// # Errors
    /// When the broker cannot be asked; run it again then.
    pub async fn remove_tenant(&self, tenant: &TenantId) -> Result<(), Error> {
        let _one_at_a_time = self.locks.lock(tenant).await;
        let name = &tenant.vhost();
        self.api.call(|link| async move { link.client.delete_user(name, true).await }).await?;
        self.api.call(|link| async move { link.client.delete_vhost(name, true).await }).await?;
        tracing::info!(%tenant, "tenant removed at the broker");
        Ok(())
    }

    /// Closes every connection in the tenant's vhost. New ones may come.
    ///
    /// # Errors
    /// When the broker cannot be asked.
    pub async fn close_connections(&self, tenant: &TenantId) -> Result<(), Error> {
        let vhost = &tenant.vhost();
        let query = [("columns", "name")];
        let open = match self
            .api
            .call(|link| async move { link.get(&["vhosts", vhost, "connections"], &query).await })
            .await
        {
            Err(Error::NotFound) => return Ok(()),
            other => other?.ok_or(Error::TooLarge)?,
        };
        for connection in open.as_array().into_iter().flatten() {
            let Some(name) = connection.get("name").and_then(Value::as_str) else { continue };
            let why = Some("closed by an administrator");
            self.api.call(|link| async move { link.client.close_connection(name, why, true).await }).await?;
        }
        Ok(())
    }

    /// Whether it is there now.
    async fn vhost(&self, wall: &mut TenantResources) -> Result<bool, Error> {
        let name = &wall.name.clone();
        match self.api.call(|link| async move { link.client.get_vhost(name).await }).await {
            Ok(_) => return Ok(true),
            Err(Error::NotFound) => {}
            Err(other) => return Err(other),
        }
        if !wall.record_change(format!("made vhost {name}")) {
            return Ok(false);
        }
        // Without a default queue type: a queue says its own.
        let description = &format!("Warrengate tenant {}", wall.tenant);
        let make = &VirtualHostParams::named(name).with_description(description);
        self.api.call(|link| async move { link.client.create_vhost(make).await }).await?;
        Ok(true)
    }

    async fn limits(&self, wall: &mut TenantResources, plan: &Plan) -> Result<(), Error> {
        let name = &wall.name.clone();
        let now = self.api.call(|link| async move { link.client.list_vhost_limits(name).await }).await?;
        let now = |key: &str| now.iter().find_map(|row| row.limits.get(key)?.as_i64()).filter(|limit| *limit >= 0);
        // The plan's queues are the tenant's own, held where they are declared (`quota.rs`); the gateway's come on top.
        let limited = |max: u32| (max > 0).then_some(i64::from(max));
        let queues = limited(plan.max_queues).map(|max| max + i64::from(OWN_QUEUES));
        for (limit, wanted) in [(Limit::MaxConnections, limited(plan.max_connections)), (Limit::MaxQueues, queues)] {
            let key = limit.as_ref().to_owned();
            if now(&key) == wanted {
                continue;
            }
            let limit = &limit;
            match wanted {
                Some(value) if wall.record_change(format!("set {key} of {name} to {value}")) => {
                    let set = || EnforcedLimitParams::new(limit.clone(), value);
                    self.api.call(|link| async move { link.client.set_vhost_limit(name, set()).await }).await?;
                }
                None if wall.record_change(format!("removed {key} of {name}")) => {
                    self.api
                        .call(|link| async move { link.client.clear_vhost_limit(name, limit.clone()).await })
                        .await?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// By a definitions import, which the broker does in its own name: the administrator needs no permission in the vhost
    /// for it, and what is there already stays as it is.
    async fn dead_letters(&self, wall: &mut TenantResources) -> Result<(), Error> {
        let name = &wall.name.clone();
        let there = |answer: Result<Option<Value>, Error>| match answer {
            Ok(found) => Ok(found),
            Err(Error::NotFound) => Ok(None),
            Err(other) => Err(other),
        };
        let exchange =
            there(self.api.call(|link| async move { link.get(&["exchanges", name, DEAD_LETTERS], &[]).await }).await)?;
        let queue =
            there(self.api.call(|link| async move { link.get(&["queues", name, DEAD_LETTERS], &[]).await }).await)?;
        let between = &["bindings", name, "e", DEAD_LETTERS, "q", DEAD_LETTERS];
        let binding = there(self.api.call(|link| async move { link.get(between, &[]).await }).await)?;
        let is_bound = binding.as_ref().and_then(Value::as_array).is_some_and(|rows| {
            rows.iter().filter_map(BindingInfo::read).any(|binding| binding.source == DEAD_LETTERS)
        });
        let arguments = DEAD_LETTER_QUEUE_ARGUMENTS.map(|(name, value)| (name.to_owned(), Value::from(value)));
        let arguments = Value::Object(arguments.into_iter().collect());
        if let Some(queue) = queue.as_ref().and_then(QueueInfo::read)
            && Some(&queue.arguments) != arguments.as_object()
        {
            // It cannot be changed without losing what is in it.
            tracing::warn!(tenant = %wall.tenant, arguments = ?queue.arguments, "dead-letter queue has other arguments");
        }
        let made = [("exchange", exchange.is_none()), ("queue", queue.is_none()), ("binding", !is_bound)];
        let mut may = false;
        for (what, _) in made.into_iter().filter(|(_, missing)| *missing) {
            may |= wall.record_change(format!("made {what} {DEAD_LETTERS} in {name}"));
        }
        if !may {
            return Ok(());
        }
        let definitions = json!({
            "exchanges": [{
                "name": DEAD_LETTERS, "type": "fanout", "durable": true, "auto_delete": false, "internal": false,
                "arguments": {},
            }],
            "queues": [{"name": DEAD_LETTERS, "durable": true, "auto_delete": false, "arguments": arguments}],
            "bindings": [{
                "source": DEAD_LETTERS, "destination": DEAD_LETTERS, "destination_type": "queue", "routing_key": "",
                "arguments": {},
            }],
        });
        let definitions = &definitions;
        self.api
            .call(|link| async move { link.client.import_vhost_definitions(name, definitions.clone()).await })
            .await?;
        Ok(())
    }

    /// A user whose password hash is empty can log in by certificate only. Whether it is there now.
    async fn user(&self, wall: &mut TenantResources) -> Result<bool, Error> {
        let name = &wall.name.clone();
        let (is_there, change) = match self.api.call(|link| async move { link.client.get_user(name).await }).await {
            Ok(user) if !user.tags.iter().all(String::is_empty) => {
                (true, format!("took tags and password from user {name}"))
            }
            // Not shown by some versions: it is emptied again, to be sure, without a word.
            Ok(user) if user.password_hash.is_none() => (true, String::new()),
            Ok(user) if user.password_hash.as_ref().is_some_and(|hash| !hash.as_str().is_empty()) => {
                (true, format!("took the password from user {name}"))
            }
            Ok(_) => return Ok(true),
            Err(Error::NotFound) => (false, format!("made user {name}, for its certificate only")),
            Err(other) => return Err(other),
        };
        if !wall.record_change(change) {
            return Ok(is_there);
        }
        let make = &UserParams::without_tags(name, "");
        self.api.call(|link| async move { link.client.create_user(make).await }).await?;
        Ok(true)
    }

    /// Everything in its own vhost, nothing anywhere else; and nobody of ours but the tenant in this one.
    async fn permissions(&self, wall: &mut TenantResources) -> Result<(), Error> {
        let name = &wall.name.clone();
        let of_user = self.api.call(|link| async move { link.client.list_permissions_of(name).await }).await?;
        let stands = of_user.iter().any(|p| {
            p.vhost == *name && [&p.configure, &p.write, &p.read].into_iter().all(|pattern| pattern == EVERYTHING)
        });
        if !stands && wall.record_change(format!("gave user {name} its vhost")) {
            let grant =
                &Permissions { user: name, vhost: name, configure: EVERYTHING, read: EVERYTHING, write: EVERYTHING };
            self.api.call(|link| async move { link.client.declare_permissions(grant).await }).await?;
        }
        for elsewhere in of_user.iter().filter(|p| p.vhost != *name) {
            if wall.record_change(format!("took vhost {} from user {name}", elsewhere.vhost)) {
                self.clear(&elsewhere.vhost, name).await?;
            }
        }
        let in_vhost = match self.api.call(|link| async move { link.client.list_permissions_in(name).await }).await {
            // A dry run has not made it.
            Err(Error::NotFound) if wall.dry_run => return Ok(()),
            other => other?,
        };
        for other in in_vhost.iter().filter(|p| p.user != *name) {
            if other.user == self.user {
                // The broker gives a new vhost to whoever made it.
                if wall.record_change(String::new()) {
                    self.clear(name, &other.user).await?;
                }
            } else if other.user.starts_with("wg.") {
                if wall.record_change(format!("took vhost {name} from user {}", other.user)) {
                    self.clear(name, &other.user).await?;
                }
            } else {
                tracing::warn!(tenant = %wall.tenant, user = other.user, "a foreign broker user may enter the tenant's vhost");
            }
        }
        Ok(())
    }

    async fn clear(&self, vhost: &str, user: &str) -> Result<(), Error> {
        self.api.call(|link| async move { link.client.clear_permissions(vhost, user, true).await }).await
    }
}

impl TenantResources {
    fn of(tenant: &TenantId, dry_run: bool) -> Self {
        Self { tenant: tenant.clone(), name: tenant.vhost(), changes: Vec::new(), dry_run }
    }

    /// Says what is to be changed (nothing: without a word), and whether it may be. A change that then fails ends the whole
    /// run, so what is said is what was done.
    fn record_change(&mut self, line: String) -> bool {
        if !line.is_empty() {
            self.changes.push(line);
        }
        !self.dry_run
    }
}
