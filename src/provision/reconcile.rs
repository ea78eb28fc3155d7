//! Creates, repairs and removes the objects of a tenant at the broker. The user is created last and removed first, so
//! that a vhost without limits cannot be accessed. Requests can be repeated, so two gateways that reconcile at the same
//! time end in the same state; within one gateway the operations on a tenant are serialised.

use std::{collections::BTreeSet, path::Path, time::Duration};

use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use super::{
    DEAD_LETTERS, Error,
    ages::Ages,
    client::{Client, Names},
    policies,
    rows::ExchangeInfo,
};
use crate::{
    broker::{DEAD_LETTER_QUEUE_ARGUMENTS, OWN_QUEUES, WORKER_START},
    config::ManagementConfig,
    memory::MemoryBudget,
    names::TenantId,
    tenant::{Plan, TenantLocks},
};

/// The memory for responses to calls of the gateway and of platform administrators.
const MAX_MEMORY: usize = 256 << 20;
const EVERYTHING: &str = ".*";
/// The broker closes the connections of a deleted user within this time, unless it does not respond.
const CLOSING_TIMEOUT: Duration = Duration::from_secs(5);
const CLOSING_INTERVAL: Duration = Duration::from_millis(50);

/// Creates, repairs and removes the objects of tenants at the broker.
#[derive(Debug)]
pub struct Provisioner {
    client: Client,
    /// The administrator's own user name.
    user: String,
    /// Serialises the operations on each tenant.
    locks: TenantLocks,
    /// The histories from which the ages of messages are estimated.
    ages: Ages,
}

/// The result of reconciling a tenant, or of comparing it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// What was or would be changed, one per line.
    pub changes: Vec<String>,
    /// What differs and cannot be repaired without losing messages, with what to do, one per line.
    pub faults: Vec<String>,
}

/// A tenant's vhost and user while they are reconciled, and the changes so far.
struct TenantResources {
    tenant: TenantId,
    /// The name of the vhost and of the user.
    name: String,
    changes: Vec<String>,
    faults: Vec<String>,
    dry_run: bool,
}

impl Provisioner {
    /// Reads the broker's CA, the certificate, its key and the password; sends nothing to the broker yet.
    ///
    /// # Errors
    /// [`Error::Settings`] when an address, the CA, the certificate or the key cannot be used.
    pub fn new(config: &ManagementConfig, broker_ca: &Path) -> Result<Self, Error> {
        // It serves the gateway and platform administrators only, which make a few calls at a time.
        let client = Client::new(config, broker_ca, MemoryBudget::new(MAX_MEMORY))?;
        Ok(Self { client, user: config.user.clone(), locks: TenantLocks::default(), ages: Ages::default() })
    }

    pub(super) fn ages(&self) -> &Ages {
        &self.ages
    }

    /// Reads the CA, the certificate, its key and the password again whenever their files change, until stopped.
    pub async fn watch_files(&self, stop: CancellationToken) {
        self.client.watch_files(stop).await;
    }

    /// Changes the administrator's own password, given as its SHA-256 hash in RabbitMQ's form.
    ///
    /// # Errors
    /// When the request fails, or refuses.
    pub async fn set_own_password(&self, hash: &str) -> Result<(), Error> {
        self.client.put_user(&self.user, hash, "administrator").await
    }

    /// Checks that the management API responds and accepts the gateway as an administrator.
    ///
    /// # Errors
    /// [`Error::Unavailable`] or [`Error::Refused`].
    pub async fn ready(&self) -> Result<(), Error> {
        if self.client.whoami().await?.is_administrator() {
            Ok(())
        } else {
            Err(Error::settings(format!("the broker user {} has no administrator tag", self.user)))
        }
    }

    /// Creates missing objects and repairs changed ones. Without drift, nothing is changed. Messages are never changed.
    ///
    /// # Errors
    /// When the request fails; run it again then.
    pub async fn ensure_tenant(&self, tenant: &TenantId, plan: &Plan) -> Result<Reconciled, Error> {
        let _one_at_a_time = self.locks.lock(tenant).await;
        let mut resources = TenantResources::of(tenant, false);
        self.reconcile(&mut resources, plan).await?;
        if !resources.changes.is_empty() {
            tracing::info!(%tenant, changes = ?resources.changes, "tenant reconciled at the broker");
        }
        if !resources.faults.is_empty() {
            tracing::warn!(%tenant, faults = ?resources.faults, "cannot repair all of the tenant's objects at the broker");
        }
        Ok(resources.into())
    }

    /// What [`Self::ensure_tenant`] would do. The contents of a missing vhost cannot be inspected and are not listed.
    ///
    /// # Errors
    /// When the request fails.
    pub async fn drift(&self, tenant: &TenantId, plan: &Plan) -> Result<Reconciled, Error> {
        let _one_at_a_time = self.locks.lock(tenant).await;
        let mut resources = TenantResources::of(tenant, true);
        self.reconcile(&mut resources, plan).await?;
        Ok(resources.into())
    }

    async fn reconcile(&self, resources: &mut TenantResources, plan: &Plan) -> Result<(), Error> {
        if self.vhost(resources).await? {
            self.limits(resources, plan).await?;
            let policies = policies::ensure(&self.client, &resources.name, plan, resources.dry_run).await?;
            resources.changes.extend(policies);
            self.dead_letters(resources).await?;
        }
        if self.user(resources).await? {
            self.permissions(resources).await?;
        }
        Ok(())
    }

    /// All vhosts and users of the broker that have names like tenants', as "vhost wg.acme" and "user wg.acme".
    ///
    /// # Errors
    /// When the request fails.
    pub async fn claimed(&self) -> Result<Vec<String>, Error> {
        let (vhosts, users) = (self.client.vhost_names().await?, self.client.user_names().await?);
        let claimed = |what: &'static str, names: Vec<String>| {
            names.into_iter().filter(|name| name.starts_with("wg.")).map(move |name| format!("{what} {name}"))
        };
        Ok(claimed("vhost", vhosts).chain(claimed("user", users)).collect())
    }

    /// Changes the limits that the broker enforces according to a plan, and nothing else; returns the changes, one per
    /// line. No vhost is created.
    ///
    /// # Errors
    /// When the request fails; run it again then.
    pub async fn ensure_limits(&self, tenant: &TenantId, plan: &Plan) -> Result<Vec<String>, Error> {
        let _one_at_a_time = self.locks.lock(tenant).await;
        let mut resources = TenantResources::of(tenant, false);
        if !self.client.vhost_exists(&resources.name).await? {
            return Ok(resources.changes);
        }
        self.limits(&mut resources, plan).await?;
        resources.changes.extend(policies::ensure(&self.client, &resources.name, plan, false).await?);
        if !resources.changes.is_empty() {
            tracing::info!(%tenant, changes = ?resources.changes, "tenant's limits changed at the broker");
        }
        Ok(resources.changes)
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Removes the tenant's user, which closes its connections, and then its vhost with every queue and message in it.
    /// Succeeds when they do not exist. Waits a second in between when the tenant has queues.
    ///
    /// # Errors
    /// When the request fails; run it again then.
    pub async fn remove_tenant(&self, tenant: &TenantId) -> Result<(), Error> {
        let _one_at_a_time = self.locks.lock(tenant).await;
        self.client.delete_user(&tenant.vhost()).await?;
        self.workers_started(tenant).await?;
        self.client.delete_vhost(&tenant.vhost()).await?;
        tracing::info!(%tenant, "tenant removed at the broker");
        Ok(())
    }

    /// Waits until no declaration in the tenant's vhost is in progress and the workers of its queues are registered.
    /// A gateway may have declared one until its connection was closed.
    async fn workers_started(&self, tenant: &TenantId) -> Result<(), Error> {
        let queue = |row: &Value| row["name"].as_str().filter(|name| *name != DEAD_LETTERS).map(drop);
        if self.client.current(&tenant.vhost(), Names::Queues, queue).await?.is_empty() {
            return Ok(());
        }
        let closed = async {
            while self.client.connections_of(&tenant.vhost()).await.is_ok_and(|open| open > 0) {
                tokio::time::sleep(CLOSING_INTERVAL).await;
            }
        };
        let _ = tokio::time::timeout(CLOSING_TIMEOUT, closed).await;
        tokio::time::sleep(WORKER_START).await;
        Ok(())
    }

    /// Closes every connection of the tenant's user. New ones can be opened.
    ///
    /// # Errors
    /// When the request fails.
    pub async fn close_connections(&self, tenant: &TenantId) -> Result<(), Error> {
        self.client.close_connections_of(&tenant.vhost(), "closed by an administrator").await
    }

    /// Whether the broker collects statistics, without which consumers, rates and stored bytes are unknown.
    ///
    /// # Errors
    /// When the request fails.
    pub async fn has_statistics(&self) -> Result<bool, Error> {
        self.client.has_statistics().await
    }

    /// Whether the vhost exists now.
    async fn vhost(&self, resources: &mut TenantResources) -> Result<bool, Error> {
        if self.client.vhost_exists(&resources.name).await? {
            return Ok(true);
        }
        if !resources.record_change(format!("created vhost {}", resources.name)) {
            return Ok(false);
        }
        let description = format!("Warrengate tenant {}", resources.tenant);
        self.client.create_vhost(&resources.name, &description).await?;
        Ok(true)
    }

    async fn limits(&self, resources: &mut TenantResources, plan: &Plan) -> Result<(), Error> {
        let name = &resources.name.clone();
        let existing = self.client.vhost_limits(name).await?;
        // The plan's limit applies to the tenant's own queues and is enforced when they are declared (`quota.rs`). The
        // gateway's are added to it.
        let limited = |max: u32| (max > 0).then_some(u64::from(max));
        let queues = limited(plan.max_queues).map(|max| max + u64::from(OWN_QUEUES));
        for (limit, wanted) in [("max-connections", limited(plan.max_connections)), ("max-queues", queues)] {
            if existing.get(limit).copied() == wanted {
                continue;
            }
            match wanted {
                Some(value) if resources.record_change(format!("set {limit} of {name} to {value}")) => {
                    self.client.set_vhost_limit(name, limit, value).await?;
                }
                None if resources.record_change(format!("removed {limit} of {name}")) => {
                    self.client.clear_vhost_limit(name, limit).await?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Declares the exchange and the queue for dead letters by an import of definitions, which requires no permission
    /// of the administrator in the vhost.
    async fn dead_letters(&self, resources: &mut TenantResources) -> Result<(), Error> {
        let name = &resources.name.clone();
        let exchange = self.client.exchange(name, DEAD_LETTERS).await?;
        let queue = self.client.queue(name, DEAD_LETTERS).await?;
        let bindings = self.client.bindings(name, Some(DEAD_LETTERS)).await?;
        let is_bound = bindings.iter().any(|b| b.destination_is_queue && b.destination == DEAD_LETTERS);
        let arguments = DEAD_LETTER_QUEUE_ARGUMENTS.map(|(name, value)| (name.to_owned(), Value::from(value)));
        let arguments: Map<_, _> = arguments.into_iter().collect();
        // Neither can be changed without deleting it, and the queue's messages with it.
        if let Some(exchange) = exchange.as_ref().filter(|exchange| !is_dead_letter_exchange(exchange)) {
            let text = format!("exchange {DEAD_LETTERS} in {name} is not a durable fanout exchange");
            resources.faults.push(format!("{text} but of type {}: delete it, then reconcile", exchange.kind));
        }
        if let Some(queue) = queue.as_ref().filter(|queue| queue.arguments != arguments) {
            let text = format!("queue {DEAD_LETTERS} in {name} has other arguments");
            let differences = differences(&arguments, &queue.arguments);
            let remedy = "redrive or purge its dead letters and delete it, then reconcile";
            resources.faults.push(format!("{text} ({differences}): {remedy}"));
        }
        let objects = [("exchange", exchange.is_some()), ("queue", queue.is_some()), ("binding", is_bound)];
        let mut import = false;
        for (what, _) in objects.into_iter().filter(|(_, exists)| !exists) {
            import |= resources.record_change(format!("created {what} {DEAD_LETTERS} in {name}"));
        }
        if !import {
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
        self.client.import_definitions(name, &definitions).await
    }

    /// Creates or repairs the user. With an empty password hash, it can log in with a certificate only. Returns whether
    /// the user exists now.
    async fn user(&self, resources: &mut TenantResources) -> Result<bool, Error> {
        let name = &resources.name.clone();
        let existing = self.client.user(name).await?;
        let change = match &existing {
            None => format!("created user {name}, for its certificate only"),
            Some(user) if user.has_tags() => format!("removed tags and password of user {name}"),
            Some(user) => match user.password_hash.as_deref() {
                Some("") => return Ok(true),
                Some(_) => format!("removed the password of user {name}"),
                // Some versions do not show the hash; it is cleared to be sure, without reporting a change.
                None => String::new(),
            },
        };
        if !resources.record_change(change) {
            return Ok(existing.is_some());
        }
        self.client.put_user(name, "", "").await?;
        Ok(true)
    }

    /// Grants the user full access to its own vhost only, and revokes access to it from all other users of Warrengate.
    async fn permissions(&self, resources: &mut TenantResources) -> Result<(), Error> {
        let name = &resources.name.clone();
        let of_user = self.client.permissions_of(name).await?;
        let is_granted = of_user
            .iter()
            .any(|p| p.vhost == *name && [&p.configure, &p.write, &p.read].into_iter().all(|may| may == EVERYTHING));
        if !is_granted && resources.record_change(format!("granted user {name} access to its vhost")) {
            self.client.grant(name, name, EVERYTHING).await?;
        }
        for other in of_user.iter().filter(|p| p.vhost != *name) {
            if resources.record_change(format!("revoked access to vhost {} from user {name}", other.vhost)) {
                self.client.revoke(&other.vhost, name).await?;
            }
        }
        // There are none if a dry run has not created the vhost.
        let in_vhost = self.client.permissions_in(name).await?.unwrap_or_default();
        for other in in_vhost.iter().filter(|p| p.user != *name) {
            let change = if other.user == self.user {
                // The broker grants access to a new vhost to the user that created it. This is revoked without being
                // reported.
                String::new()
            } else if other.user.starts_with("wg.") {
                format!("revoked access to vhost {name} from user {}", other.user)
            } else {
                let tenant = &resources.tenant;
                tracing::warn!(%tenant, user = other.user, "another broker user has permissions in the tenant's vhost");
                continue;
            };
            if resources.record_change(change) {
                self.client.revoke(name, &other.user).await?;
            }
        }
        Ok(())
    }
}

impl From<TenantResources> for Reconciled {
    fn from(TenantResources { changes, faults, .. }: TenantResources) -> Self {
        Self { changes, faults }
    }
}

/// Whether it routes every message to the queue, as [`Provisioner::dead_letters`] declares it.
fn is_dead_letter_exchange(exchange: &ExchangeInfo) -> bool {
    exchange.kind == "fanout" && exchange.durable && !exchange.auto_delete && !exchange.internal
}

/// The arguments that differ, each with its current value.
fn differences(wanted: &Map<String, Value>, current: &Map<String, Value>) -> String {
    let names: BTreeSet<_> =
        wanted.keys().chain(current.keys()).filter(|name| wanted.get(*name) != current.get(*name)).collect();
    let value = |name: &String| current.get(name).map_or("missing".to_owned(), Value::to_string);
    names.into_iter().map(|name| format!("{name} {}", value(name))).collect::<Vec<_>>().join(", ")
}

impl TenantResources {
    fn of(tenant: &TenantId, dry_run: bool) -> Self {
        Self { tenant: tenant.clone(), name: tenant.vhost(), changes: Vec::new(), faults: Vec::new(), dry_run }
    }

    /// Records a change that is about to be made (an empty line is not recorded), and returns whether to make it. If a
    /// change fails, the whole run fails, so every recorded change was made.
    fn record_change(&mut self, line: String) -> bool {
        if !line.is_empty() {
            self.changes.push(line);
        }
        !self.dry_run
    }
}
