//! Tests of the store, on SQLite in memory and on PostgreSQL.

use std::sync::OnceLock;

use zeroize::Zeroizing;

use warrengate_testkit::postgres::Postgres;

use super::*;
use crate::names::{ClientId, PlanName, TenantId};

async fn store() -> Store {
    let key = EncryptionKey::parse(&EncryptionKey::generate()).expect("a key");
    let url = match module_path!().ends_with("postgres") {
        true => own_schema().await,
        false => "sqlite::memory:".to_owned(),
    };
    Store::open(&url.into(), key).await.expect("a store")
}

/// Tests run in parallel; each has a schema of its own.
async fn own_schema() -> String {
    static SERVER: OnceLock<Postgres> = OnceLock::new();
    let url = tokio::task::spawn_blocking(|| SERVER.get_or_init(|| Postgres::start().expect("a server")).url())
        .await
        .expect("a server");
    sqlx::any::install_default_drivers();
    let schema = format!("t{}", uuid::Uuid::now_v7().simple());
    let pool = AnyPool::connect(&url).await.expect("a database");
    let statement = sqlx::AssertSqlSafe(format!("CREATE SCHEMA {schema}"));
    sqlx::raw_sql(statement).execute(&pool).await.expect("a schema");
    pool.close().await;
    format!("{url}?options[search_path]={schema}")
}

fn id(text: &str) -> TenantId {
    TenantId::parse(text).expect("a tenant id")
}

fn client_id(text: &str) -> ClientId {
    ClientId::parse(text).expect("a client id")
}

fn new_tenant(text: &str) -> NewTenant {
    NewTenant { id: id(text), display_name: text.to_owned(), plan: PlanName::parse("standard").expect("a plan") }
}

fn new_client(text: &str) -> NewClient {
    NewClient {
        id: client_id(text),
        display_name: text.to_owned(),
        secret_hash: "$argon2id$x".to_owned(),
        grants: "{}".to_owned(),
        external: None,
    }
}

fn new_key(kid: &str) -> NewKey {
    NewKey {
        kid: kid.to_owned(),
        algorithm: "EdDSA".to_owned(),
        private: Zeroizing::new(b"private".to_vec()),
        public: b"public".to_vec(),
    }
}

/// The URL of an empty database, and its folder.
async fn location() -> (SecretString, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    let url = match module_path!().ends_with("postgres") {
        true => own_schema().await,
        false => format!("sqlite://{}", dir.path().join("state.db").display()),
    };
    (url.into(), dir)
}

/// Data of the first schema version: a tenant with clients, one of them revoked, a key and an audit event.
const DATA_OF_VERSION_1: &str = "\
    INSERT INTO tenants (id, display_name, plan, state, created, updated) VALUES ('acme', 'Acme', 'free', 'active', 1, 1);
    INSERT INTO clients (id, tenant, display_name, secret_hash, grants, revoked, not_before, created) VALUES
        ('acme.app', 'acme', 'app', 'hash', '{\"s\":[\"jobs\"]}', 0, 1, 1), ('acme.old', 'acme', 'old', 'hash', '{}', 1, 1, 1),
        ('admin', NULL, 'admin', 'hash', '{\"a\":true}', 0, 1, 1);
    INSERT INTO audit (id, time, client, peer_address, method, tenant, object, rule, outcome, trace_id) VALUES
        ('01900000-0000-7000-8000-000000000001', 1, 'admin', '', 'CreateTenant', 'acme', 'acme', '', 'done', ''),
        ('01900000-0000-7000-8000-000000000002', 1, '', '', 'WhoAmI', '', '', 'TOKEN_INVALID', 'refused', '');
    UPDATE revision SET value = 7;";

#[tokio::test]
async fn each_older_schema_is_upgraded_with_its_data_and_its_gateway_can_be_rolled_back() {
    const NEWEST: i64 = 10;
    for version in 1..NEWEST {
        let ((url, _dir), key) = (location().await, EncryptionKey::generate());
        let key = || EncryptionKey::parse(&key).expect("a key");
        let old = Store::open_at_version(&url, key(), version).await.expect("an old store");
        sqlx::raw_sql(DATA_OF_VERSION_1).execute(&old.pool).await.expect("data");
        // The columns of keys have never changed.
        old.create_first_signing_key(&new_key("k1")).await.expect("a key");
        old.close().await;

        let store = Store::open(&url, key()).await.expect("upgraded");
        let snapshot = store.snapshot().await.expect("a snapshot");
        assert_eq!((snapshot.revision, snapshot.tenants.len(), snapshot.clients.len()), (8, 1, 3), "version {version}");
        let app = store.client(&client_id("acme.app")).await.expect("the store responds").expect("found");
        assert_eq!((app.grants.as_str(), app.revoked, app.external), ("{\"s\":[\"jobs\"]}", false, None));
        assert!(store.client(&client_id("acme.old")).await.expect("the store responds").expect("found").revoked);
        assert_eq!(store.signing_keys().await.expect("keys").len(), 1);
        assert_eq!(store.audit(&AuditFilter::default(), None, 10).await.expect("events").len(), 2);
        // New features work with old data.
        assert_eq!(store.prune_audit(SystemTime::now(), 10, 10).await.expect("pruned"), 2);
        assert_eq!(store.revoke_signing_keys(Some("k1"), &new_key("k2")).await.expect("revoked"), ["k1"]);
        assert!(store.delete_client(&client_id("acme.old")).await.expect("deleted"));
        store.renew_gateway(&gateway("new")).await.expect("recorded");
        assert_eq!(store.gateways().await.expect("gateways").len(), 1);
        store.close().await;

        let back = Store::open_at_version(&url, key(), version).await.expect("the old gateway again");
        sqlx::raw_sql(
            "INSERT INTO clients (id, tenant, display_name, secret_hash, grants, revoked, not_before, created) VALUES \
             ('acme.new', 'acme', 'new', 'hash', '{}', 0, 1, 1)",
        )
        .execute(&back.pool)
        .await
        .expect("an insertion by the old gateway");
        back.close().await;
    }
    assert_eq!(open::newest_version(), NEWEST, "this test must cover every migration");
}

fn gateway(host: &str) -> GatewayEntry {
    GatewayEntry {
        id: uuid::Uuid::now_v7(),
        version: "1.0.0".to_owned(),
        host: host.to_owned(),
        grpc_address: "127.0.0.1:8443".to_owned(),
        started: from_millis(now()),
    }
}

/// Gives a gateway another time of its last renewal, as if it had been killed then.
async fn last_renewed(store: &Store, gateway: &GatewayEntry, ago: Duration) {
    let change = format!("UPDATE gateways SET last_seen = last_seen - {} WHERE id = '{}'", ago.as_millis(), gateway.id);
    sqlx::raw_sql(sqlx::AssertSqlSafe(change)).execute(&store.pool).await.expect("changed");
}

#[tokio::test]
async fn gateways_are_listed_until_they_end_and_those_that_do_not_renew_are_not_seen_and_then_deleted() {
    let store = store().await;
    let [one, two, killed] = ["one", "two", "killed"].map(gateway);
    for entry in [&one, &two, &killed] {
        store.renew_gateway(entry).await.expect("recorded");
    }
    let listed = async || {
        let rows = store.gateways().await.expect("gateways");
        rows.into_iter().map(|row| (row.entry.host, row.is_seen)).collect::<Vec<_>>()
    };
    let of = |hosts: &[(&str, bool)]| hosts.iter().map(|(host, seen)| ((*host).to_owned(), *seen)).collect::<Vec<_>>();
    assert_eq!(listed().await, of(&[("one", true), ("two", true), ("killed", true)]));
    let row = store.gateways().await.expect("gateways").remove(0);
    assert_eq!(row.entry, one, "everything is stored");
    let age = SystemTime::now().duration_since(row.last_seen).unwrap_or_default();
    assert!(age < Duration::from_secs(60), "{age:?}");

    store.remove_gateway(two.id).await.expect("removed");
    last_renewed(&store, &killed, Duration::from_secs(16)).await;
    assert_eq!(listed().await, of(&[("one", true), ("killed", false)]));
    store.renew_gateway(&killed).await.expect("renewed");
    assert_eq!(listed().await, of(&[("one", true), ("killed", true)]), "it is seen again");
    last_renewed(&store, &killed, Duration::from_secs(3590)).await;
    store.renew_gateway(&one).await.expect("renewed");
    assert_eq!(listed().await, of(&[("one", true), ("killed", false)]), "listed for an hour");
    last_renewed(&store, &killed, Duration::from_secs(20)).await;
    store.renew_gateway(&one).await.expect("renewed");
    assert_eq!(listed().await, of(&[("one", true)]));
}

#[tokio::test]
async fn a_gateway_that_restarts_again_and_again_leaves_a_bounded_number_of_records() {
    let store = store().await;
    for _ in 0..MAX_GATEWAYS + 5 {
        store.renew_gateway(&gateway("crashing")).await.expect("recorded");
    }
    let last = gateway("last");
    store.renew_gateway(&last).await.expect("recorded");
    let count: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM gateways").fetch_one(&store.pool).await.expect("a count");
    assert_eq!(count, MAX_GATEWAYS);
    assert!(store.gateways().await.expect("gateways").iter().any(|row| row.entry == last), "the newest is kept");
}

#[tokio::test]
async fn an_external_id_belongs_to_one_client_of_its_issuer_and_tenant() {
    let store = store().await;
    for tenant in ["acme", "globex"] {
        store.create_tenant(&new_tenant(tenant)).await.expect("created");
    }
    let bound = |text: &str, issuer: &str, id: &str| {
        let external = Some(ExternalIdentity { issuer: issuer.to_owned(), id: id.to_owned() });
        NewClient { external, ..new_client(text) }
    };
    store.create_client(&bound("acme.a", "https://one", "guid")).await.expect("the store responds").expect("created");
    let taken = store.create_client(&bound("acme.b", "https://one", "guid")).await;
    assert!(matches!(taken, Err(Error::ExternalIdTaken)), "{taken:?}");
    store.create_client(&bound("acme.b", "https://two", "guid")).await.expect("the store responds").expect("created");
    store.create_client(&bound("globex.a", "https://one", "guid")).await.expect("the store responds").expect("created");
    // Clients without external ids do not conflict.
    store.create_client(&bound("acme.c", "https://one", "")).await.expect("the store responds").expect("created");
    store.create_client(&bound("acme.d", "https://one", "")).await.expect("the store responds").expect("created");
    let known: Vec<_> =
        store.external_clients().await.expect("the store responds").into_iter().map(|known| known.client).collect();
    assert_eq!(known, [client_id("acme.a"), client_id("acme.b"), client_id("globex.a")]);
    let external = ExternalIdentity { issuer: "https://one".to_owned(), id: "guid".to_owned() };
    let take = ClientChanges { external: Some(Some(&external)), ..ClientChanges::default() };
    assert!(matches!(store.update_client(&client_id("acme.b"), &take).await, Err(Error::ExternalIdTaken)));
    let free = ClientChanges { external: Some(None), ..ClientChanges::default() };
    let row = store.update_client(&client_id("acme.a"), &free).await.expect("the store responds").expect("found");
    assert_eq!(row.external, None);
    assert!(store.update_client(&client_id("acme.b"), &take).await.expect("the store responds").is_some());
}

#[tokio::test]
async fn revoked_clients_count_towards_the_limit_of_a_tenants_clients() {
    let store = store().await;
    store.create_tenant(&new_tenant("acme")).await.expect("created");
    for name in ["acme.a", "acme.b"] {
        store.create_client_within(&new_client(name), 2).await.expect("the store responds").expect("created");
        store.revoke_client(&client_id(name)).await.expect("revoked");
    }
    let over = store.create_client_within(&new_client("acme.c"), 2).await;
    assert!(matches!(over, Err(Error::TooManyClients { max: 2 })), "{over:?}");
    assert!(store.delete_client(&client_id("acme.a")).await.expect("deleted"));
    assert!(!store.delete_client(&client_id("acme.a")).await.expect("the store responds"));
    assert!(store.create_client_within(&new_client("acme.c"), 2).await.expect("the store responds").is_some());
}

#[tokio::test]
async fn aggregated_events_have_their_own_limit() {
    let store = store().await;
    let event = |outcome: &str, aggregated| NewAudit { outcome: outcome.to_owned(), aggregated, ..NewAudit::default() };
    let now = SystemTime::now();
    for i in 0..5_u64 {
        let at = |event: NewAudit| NewAudit { time: now - Duration::from_secs(60 - i), ..event };
        store
            .record(&[at(event("done", false)), at(event("refused", true)), at(event("done", true))])
            .await
            .expect("stored");
    }
    let before = now - Duration::from_secs(3600);
    let deleted = store.prune_audit(before, 2, 100).await.expect("pruned");
    assert_eq!(deleted, 6, "three refusals and three aggregated events");
    let left = store.audit(&AuditFilter::default(), None, 100).await.expect("events");
    assert_eq!(left.iter().filter(|row| !row.event.aggregated && row.event.outcome == "done").count(), 5);
    // The database itself refuses to delete the others.
    let sql = sqlx::AssertSqlSafe("DELETE FROM audit WHERE aggregated = 1".to_owned());
    assert!(sqlx::raw_sql(sql).execute(&store.pool).await.is_err());
}

#[tokio::test]
async fn three_plans_exist_from_the_start() {
    let store = store().await;
    let names: Vec<_> = store.plans(None, 10).await.expect("plans").into_iter().map(|plan| plan.name).collect();
    assert_eq!(names.iter().map(PlanName::as_str).collect::<Vec<_>>(), ["free", "standard", "unlimited"]);
    let rest = store.plans(Some(&names[0]), 1).await.expect("plans");
    assert_eq!(rest[0].name.as_str(), "standard");
    assert_eq!(store.plan(&names[2]).await.expect("the store responds").expect("found").max_queues, 0);
}

#[tokio::test]
async fn two_concurrent_creations_create_one_tenant() {
    let store = store().await;
    let new = new_tenant("acme");
    let results = futures_util::future::join_all((0..16).map(|_| store.create_tenant(&new))).await;
    let made = results.iter().filter(|result| result.as_ref().expect("created").1).count();
    assert_eq!(made, 1);
    assert_eq!(store.tenants(None, 10).await.expect("listed").len(), 1);
}

#[tokio::test]
async fn an_unknown_plan_or_tenant_is_reported() {
    let store = store().await;
    let plan = PlanName::parse("gold").expect("a name");
    let refused = store.create_tenant(&NewTenant { plan: plan.clone(), ..new_tenant("acme") }).await;
    assert!(matches!(refused, Err(Error::UnknownPlan)));
    assert!(matches!(store.create_client(&new_client("acme.app")).await, Err(Error::UnknownTenant)));
    store.create_tenant(&new_tenant("acme")).await.expect("created");
    assert!(matches!(store.update_tenant(&id("acme"), None, Some(&plan)).await, Err(Error::UnknownPlan)));
}

#[tokio::test]
async fn every_change_raises_the_revision_and_a_repeated_creation_does_not() {
    let store = store().await;
    let first = store.revision().await.expect("revision");
    store.create_tenant(&new_tenant("acme")).await.expect("created");
    let second = store.revision().await.expect("revision");
    assert_eq!(second, first + 1);
    store.create_tenant(&new_tenant("acme")).await.expect("created");
    assert_eq!(store.revision().await.expect("revision"), second);
    store.set_tenant_state(&id("acme"), TenantState::Suspended).await.expect("suspended");
    let snapshot = store.snapshot().await.expect("snapshot");
    assert_eq!(snapshot.revision, second + 1);
    assert_eq!(snapshot.tenants[0].state, TenantState::Suspended);
    assert_eq!(snapshot.plans.len(), 3);
}

#[tokio::test]
async fn deleting_a_tenant_deletes_its_clients_and_no_others() {
    let store = store().await;
    for tenant in ["acme", "globex"] {
        store.create_tenant(&new_tenant(tenant)).await.expect("created");
        store.create_client(&new_client(&format!("{tenant}.app"))).await.expect("the store responds").expect("created");
    }
    store.create_client(&new_client("admin")).await.expect("the store responds").expect("created");
    assert!(store.delete_tenant(&id("acme")).await.expect("deleted"));
    assert!(!store.delete_tenant(&id("acme")).await.expect("the store responds"));
    assert!(store.client(&client_id("acme.app")).await.expect("the store responds").is_none());
    assert!(store.client(&client_id("globex.app")).await.expect("the store responds").is_some());
    assert_eq!(store.clients(None, None, 10).await.expect("listed").len(), 1);
    assert_eq!(store.snapshot().await.expect("snapshot").clients.len(), 2);
}

#[tokio::test]
async fn clients_are_listed_by_tenant_and_page() {
    let store = store().await;
    for tenant in ["acme", "acme-2"] {
        store.create_tenant(&new_tenant(tenant)).await.expect("created");
        for name in ["a", "b", "c"] {
            store
                .create_client(&new_client(&format!("{tenant}.{name}")))
                .await
                .expect("the store responds")
                .expect("created");
        }
    }
    let page = store.clients(Some(&id("acme")), None, 2).await.expect("listed");
    assert_eq!(page.iter().map(|row| row.id.as_str()).collect::<Vec<_>>(), ["acme.a", "acme.b"]);
    let rest = store.clients(Some(&id("acme")), Some(&page[1].id), 2).await.expect("listed");
    assert_eq!(rest.iter().map(|row| row.id.as_str()).collect::<Vec<_>>(), ["acme.c"]);
    assert!(store.create_client(&new_client("acme.a")).await.expect("the store responds").is_none());
}

#[tokio::test]
async fn a_revoked_client_stays_revoked_when_its_secret_is_replaced() {
    let store = store().await;
    let admin = store.create_client(&new_client("admin")).await.expect("the store responds").expect("created");
    assert!(!admin.revoked);
    let revoked = store.revoke_client(&admin.id).await.expect("the store responds").expect("found");
    assert!(revoked.revoked && revoked.not_before >= admin.not_before);
    let again = store.set_client_secret(&admin.id, "$argon2id$y").await.expect("the store responds").expect("found");
    assert!(again.revoked);
    assert_eq!(again.secret_hash, "$argon2id$y");
    assert!(!format!("{again:?}").contains("argon2"));
    let changed = store
        .update_client(&admin.id, &ClientChanges { grants: Some("{\"x\":1}"), ..ClientChanges::default() })
        .await
        .expect("the store responds")
        .expect("found");
    assert_eq!((changed.grants.as_str(), changed.display_name.as_str()), ("{\"x\":1}", "admin"));
    assert!(store.revoke_client(&client_id("nobody")).await.expect("the store responds").is_none());
}

#[tokio::test]
async fn only_one_first_signing_key_is_stored_and_a_rotation_keeps_the_previous_key() {
    let store = store().await;
    assert!(store.create_first_signing_key(&new_key("k1")).await.expect("stored"));
    assert!(!store.create_first_signing_key(&new_key("k2")).await.expect("the store responds"));
    let later = SystemTime::now() + Duration::from_secs(60);
    store.rotate_signing_key(&new_key("k3"), later).await.expect("rotated");
    let keys = store.signing_keys().await.expect("keys");
    let state = |kid: &str| keys.iter().find(|key| key.kid == kid).map(|key| key.state);
    assert_eq!((state("k1"), state("k3"), keys.len()), (Some(KeyState::Retiring), Some(KeyState::Active), 2));
    assert_eq!(keys[0].private.as_slice(), b"private");
    store.rotate_signing_key(&new_key("k4"), UNIX_EPOCH).await.expect("rotated");
    assert!(store.signing_keys().await.expect("keys").iter().all(|key| key.kid != "k3"));
}

#[tokio::test]
async fn ended_sessions_are_refused_and_however_many_a_client_ends_few_are_stored() {
    let store = store().await;
    let (before, hour) = (SystemTime::now(), Duration::from_secs(3600));
    let is_ended = async |client: &str, session: &str, began: SystemTime| {
        store.is_session_ended(client, session, began).await.expect("an answer")
    };
    store.end_session("acme.app", "one", hour).await.expect("ended");
    store.end_session("acme.app", "one", hour).await.expect("again");
    assert!(is_ended("acme.app", "one", before).await);
    assert!(!is_ended("acme.app", "two", before).await && !is_ended("globex.app", "one", before).await);
    for at in 0..200 {
        store.end_session("acme.app", &format!("s{at}"), hour).await.expect("ended");
    }
    for session in ["one", "s0", "s199", "never known"] {
        assert!(is_ended("acme.app", session, before).await, "{session}");
    }
    assert!(!is_ended("acme.app", "later", SystemTime::now() + hour).await, "a session that begins later");
    assert!(!is_ended("globex.app", "s0", before).await);
    let rows = async || -> i64 {
        sqlx::query_scalar("SELECT COUNT(*) FROM ended_sessions").fetch_one(&store.pool).await.expect("a number")
    };
    assert!(rows().await <= 64, "{}", rows().await);
    // What would have ended by itself is forgotten.
    store.end_session("globex.app", "short", Duration::ZERO).await.expect("ended");
    let stored = rows().await;
    store.end_session("globex.app", "long", hour).await.expect("ended");
    assert_eq!(rows().await, stored);
}

#[tokio::test]
async fn a_response_is_stored_for_its_caller_only() {
    let store = store().await;
    let admin = client_id("admin");
    store.remember_answer(&admin, "CreateTenant", "r1", "one").await.expect("stored");
    store.remember_answer(&admin, "CreateTenant", "r1", "two").await.expect("stored");
    let found = store.answered(&admin, "CreateTenant", "r1").await.expect("the store responds");
    assert_eq!(found.as_deref(), Some("one"));
    let other = store.answered(&client_id("acme.app"), "CreateTenant", "r1").await.expect("the store responds");
    assert_eq!(other, None);
}

fn event(tenant: &str, object: &str, outcome: &str) -> NewAudit {
    NewAudit { tenant: tenant.into(), object: object.into(), outcome: outcome.into(), ..NewAudit::default() }
}

async fn objects(store: &Store, filter: AuditFilter) -> Vec<String> {
    let rows = store.audit(&filter, None, 100).await.expect("listed");
    rows.into_iter().map(|row| row.event.object).collect()
}

#[tokio::test]
async fn audit_events_come_newest_first_and_filtered() {
    let store = store().await;
    let old = NewAudit { time: UNIX_EPOCH + Duration::from_secs(5), ..event("acme", "0", REFUSED) };
    let events =
        [old, event("acme", "1", "done"), event("globex", "2", "done"), event("acme", "3", "failed: STORE_FAILED")];
    let methods = ["Admin/CreateTenant", "Admin/CreateTenant", "Messaging/Publish", "Admin/DeleteTenant"];
    let events: Vec<_> = events
        .into_iter()
        .zip(methods)
        .map(|(event, method)| NewAudit { method: format!("warrengate.v1.{method}"), times: 7, ..event })
        .collect();
    store.record(&events).await.expect("stored");
    let all = store.audit(&AuditFilter::default(), None, 10).await.expect("listed");
    assert_eq!(all.iter().map(|row| row.event.object.as_str()).collect::<Vec<_>>(), ["3", "2", "1", "0"]);
    assert_eq!(all[0].event.times, 7);
    let acme = AuditFilter { tenant: "acme".into(), ..AuditFilter::default() };
    let rest = store.audit(&acme, Some(all[0].id), 10).await.expect("listed");
    assert_eq!(rest.iter().map(|row| row.event.object.as_str()).collect::<Vec<_>>(), ["1", "0"]);
    let filter = AuditFilter::default;
    assert_eq!(objects(&store, AuditFilter { outcome: "failed".into(), ..filter() }).await, ["3"]);
    assert_eq!(objects(&store, AuditFilter { outcome: REFUSED.into(), ..filter() }).await, ["0"]);
    assert_eq!(objects(&store, AuditFilter { method: "CreateTenant".into(), ..filter() }).await, ["1", "0"]);
    let whole = "warrengate.v1.Messaging/Publish".to_owned();
    assert_eq!(objects(&store, AuditFilter { method: whole, ..filter() }).await, ["2"]);
    let moment = Some(UNIX_EPOCH + Duration::from_secs(60));
    assert_eq!(objects(&store, AuditFilter { until: moment, ..filter() }).await, ["0"]);
    assert_eq!(objects(&store, AuditFilter { from: moment, ..filter() }).await, ["3", "2", "1"]);
    assert_eq!(
        objects(&store, AuditFilter { client: "x' OR '1' = '1".into(), ..filter() }).await,
        Vec::<String>::new()
    );
}

#[tokio::test]
async fn an_audit_event_cannot_be_changed_or_deleted_before_its_retention_time() {
    let store = store().await;
    store.record(&[event("acme", "1", "done"), event("acme", "2", REFUSED)]).await.expect("stored");
    for sql in [
        "UPDATE audit SET outcome = 'nothing'",
        "DELETE FROM audit",
        "DELETE FROM audit WHERE outcome = 'refused'",
        "UPDATE audit_floor SET acts_before = -1",
        "DELETE FROM audit_floor",
    ] {
        sqlx::query(sql).execute(&store.pool).await.expect_err(sql);
    }
    assert_eq!(objects(&store, AuditFilter::default()).await, ["2", "1"]);
}

#[tokio::test]
async fn a_full_disk_is_reported_as_such() {
    let store = store().await;
    if !store.is_sqlite {
        return;
    }
    // SQLite's own limit causes the same error as a full disk.
    sqlx::raw_sql("PRAGMA max_page_count = 1").execute(&store.pool).await.expect("set");
    let mut last = Ok(());
    for number in 0..1_000 {
        last = store.create_tenant(&new_tenant(&format!("tenant{number}"))).await.map(drop);
        if last.is_err() {
            break;
        }
    }
    let error = last.expect_err("full");
    assert!(matches!(error, Error::Full(_)), "{error:?}");
    assert_eq!((error.kind(), error.reason()), (Kind::Unavailable, "STORE_FULL"));
}

#[tokio::test]
async fn retention_deletes_old_events_and_excess_refusals_but_no_recent_operation() {
    let store = store().await;
    let ago = |seconds| SystemTime::now() - Duration::from_secs(seconds);
    let at = |seconds, object: &str, outcome: &str| NewAudit { time: ago(seconds), ..event("acme", object, outcome) };
    let events = [
        at(9_000, "old act", "done"),
        at(9_000, "old refusal", REFUSED),
        at(30, "act", "done"),
        at(20, "refusal 1", REFUSED),
        at(10, "refusal 2", REFUSED),
        at(5, "refusal 3", REFUSED),
    ];
    store.record(&events).await.expect("stored");
    assert_eq!(store.prune_audit(ago(3_600), 2, 1).await.expect("pruned"), 2, "one of each kind a batch");
    assert_eq!(store.prune_audit(ago(3_600), 2, 1).await.expect("pruned"), 1);
    assert_eq!(store.prune_audit(ago(3_600), 2, 1).await.expect("pruned"), 0);
    assert_eq!(objects(&store, AuditFilter::default()).await, ["refusal 3", "refusal 2", "act"]);
}

#[tokio::test]
async fn an_unfinished_operation_is_reported_once_and_a_finished_one_is_not() {
    let store = store().await;
    let operation = async |object: &str| store.begin_operation(&event("acme", object, "")).await.expect("begun");
    let (done, cancelled, _died) = (operation("done").await, operation("cancelled").await, operation("died").await);
    store.finish_operation(&done, &event("acme", "done", "done")).await.expect("stored");
    store.cancel_operation(&cancelled).await.expect("forgotten");
    let later = SystemTime::now() + Duration::from_secs(1);
    assert_eq!(store.report_unfinished_operations(UNIX_EPOCH).await.expect("the store responds"), 0);
    assert_eq!(store.report_unfinished_operations(later).await.expect("the store responds"), 1);
    assert_eq!(store.report_unfinished_operations(later).await.expect("the store responds"), 0);
    let rows = store.audit(&AuditFilter::default(), None, 10).await.expect("listed");
    let seen: Vec<_> = rows.iter().map(|row| (row.event.object.as_str(), row.event.outcome.as_str())).collect();
    assert_eq!(seen, [("died", UNFINISHED), ("done", "done")]);
}

#[tokio::test]
async fn a_database_file_can_be_opened_again_but_not_with_another_encryption_key() {
    let dir = tempfile::tempdir().expect("a directory");
    let url = format!("sqlite://{}", dir.path().join("state.db").display()).into();
    let first = Store::open(&url, EncryptionKey::parse(&EncryptionKey::generate()).expect("a key")).await;
    let first = first.expect("a store");
    first.create_first_signing_key(&new_key("k1")).await.expect("stored");
    first.close().await;
    let other = Store::open(&url, EncryptionKey::parse(&EncryptionKey::generate()).expect("a key")).await;
    let refused = other.expect("a store").signing_keys().await;
    assert!(matches!(refused, Err(Error::Sealed { kid }) if kid == "k1"));
}

#[tokio::test]
async fn an_error_does_not_reveal_its_sql_to_clients() {
    let store = store().await;
    store.close().await;
    let failure = crate::error::Failure::from(store.revision().await.expect_err("closed"));
    assert_eq!(failure.reason, "STORE_UNAVAILABLE");
    assert!(!failure.message.contains("SELECT"));
}

#[tokio::test]
async fn listeners_are_notified_of_a_committed_change() {
    let store = store().await;
    let Some(mut changes) = store.changes().await.expect("the store responds") else {
        assert!(store.is_sqlite, "only SQLite has no notifications");
        return;
    };
    let revision = store.revision().await.expect("revision");
    store.create_tenant(&new_tenant("acme")).await.expect("created");
    // Notifications of other schemas' changes arrive as well; only one after our change matters.
    let notified = async {
        changes.changed().await.expect("a notification");
        store.revision().await.expect("revision")
    };
    let seen = tokio::time::timeout(Duration::from_secs(60), notified).await.expect("in time");
    assert!(seen > revision);
}
