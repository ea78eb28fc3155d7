//! Tests of admission and of the end of streams, with a real store.

use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    auth::{Caller, Grants},
    names::{ClientId, PlanName, QueueName, TenantId},
    pb,
    store::{self, ClientChanges, EncryptionKey, ExternalIdentity, NewClient, NewKey, NewTenant, Store, TenantState},
};

struct Fixture {
    _dir: tempfile::TempDir,
    store: Store,
    tenants: Tenants,
}

impl Fixture {
    /// `acme` and `globex` on the free plan (10 streams), each with a client `app`, and the administrator `admin`.
    async fn build() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let url = format!("sqlite://{}", dir.path().join("state.db").display()).into();
        let key = EncryptionKey::parse(&EncryptionKey::generate()).expect("a key");
        let store = Store::open(&url, key).await.expect("a store");
        for tenant in ["acme", "globex"] {
            add_tenant(&store, tenant).await;
            add_client(&store, &format!("{tenant}.app")).await;
        }
        add_client(&store, "admin").await;
        let tenants = Tenants::load(store.clone(), Duration::from_millis(10)).await.expect("loaded");
        Self { _dir: dir, store, tenants }
    }

    async fn refresh(&self) {
        self.tenants.refresh().await.expect("refreshed");
    }

    fn publish(&self, caller: &Caller) -> Result<TenantScope, Error> {
        self.tenants.admit(caller, Action::Publish)
    }
}

async fn add_tenant(store: &Store, id: &str) {
    let plan = PlanName::parse("free").expect("a plan");
    store.create_tenant(&NewTenant { id: tenant(id), display_name: id.into(), plan }).await.expect("created");
}

/// Adds a client with all grants.
async fn add_client(store: &Store, id: &str) {
    let grants = everything(true).to_json();
    let new = NewClient { id: client(id), display_name: id.into(), secret_hash: "x".into(), grants, external: None };
    store.create_client(&new).await.expect("the store responds").expect("created");
}

fn everything(administer: bool) -> Grants {
    Grants::parse(&pb::Grants { administer, ..Grants::everything().to_pb() }).expect("grants")
}

fn changes(grants: &str) -> ClientChanges<'_> {
    ClientChanges { grants: Some(grants), ..ClientChanges::default() }
}

/// Changes a client's grants in the store.
async fn grant(store: &Store, id: &str, grants: &Grants) {
    store.update_client(&client(id), &changes(&grants.to_json())).await.expect("the store responds").expect("changed");
}

fn tenant(id: &str) -> TenantId {
    TenantId::parse(id).expect("a tenant id")
}

fn client(id: &str) -> ClientId {
    ClientId::parse(id).expect("a client id")
}

fn caller(id: &str) -> Caller {
    caller_since(id, SystemTime::now(), Grants::everything())
}

fn caller_since(id: &str, issued: SystemTime, grants: Grants) -> Caller {
    Caller::for_test(&client(id), grants, issued, issued + Duration::from_secs(3600))
}

/// A second ago, before the last reading of the store.
fn earlier() -> SystemTime {
    SystemTime::now() - Duration::from_secs(1)
}

/// The store keeps times in milliseconds: an action after this has a later time than one before.
async fn next_millisecond() {
    let millis = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_millis();
    let now = millis();
    while millis() == now {
        tokio::task::yield_now().await;
    }
}

async fn soon<T>(waiting: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(5), waiting).await.expect("in time")
}

#[tokio::test]
async fn a_client_is_admitted_to_its_own_tenant() {
    let fixture = Fixture::build().await;
    let scope = fixture.publish(&caller("acme.app")).expect("admitted");
    assert_eq!((scope.tenant().as_str(), scope.vhost(), scope.plan().name.as_str()), ("acme", "wg.acme", "free"));
}

#[tokio::test]
async fn a_platform_administrator_is_not_admitted_to_the_data_plane() {
    let fixture = Fixture::build().await;
    assert_eq!(fixture.publish(&caller("admin")).expect_err("refused"), Error::NoTenant);
}

#[tokio::test]
async fn administration_requires_a_grant() {
    let fixture = Fixture::build().await;
    let refused = |caller: &Caller| fixture.tenants.admit_administrator(caller).err();
    for id in ["admin", "acme.app"] {
        assert_eq!(refused(&caller(id)), Some(Error::NotAdministrator), "{id}");
        let granted = caller_since(id, SystemTime::now(), Grants::administrator());
        assert_eq!(refused(&granted), None, "{id}");
    }
    let own = caller_since("acme.app", SystemTime::now(), Grants::administrator());
    let own = fixture.tenants.admit_administrator(&own).expect("admitted");
    assert!(own.may_manage_clients_of(Some(&tenant("acme"))));
    assert!(!own.may_manage_clients_of(Some(&tenant("globex"))));
    assert!(!own.may_manage_clients_of(None));
}

#[tokio::test]
async fn a_removed_grant_is_not_in_force_even_if_an_older_token_contains_it() {
    let fixture = Fixture::build().await;
    let queue = QueueName::parse("jobs").expect("a name");
    let scope = fixture.publish(&caller("acme.app")).expect("admitted");
    let lost = scope.grant_lost(|grants| grants.may_subscribe(&queue));
    tokio::pin!(lost);
    assert!(futures_util::FutureExt::now_or_never(lost.as_mut()).is_none(), "it is granted");
    grant(&fixture.store, "acme.app", &Grants::administrator()).await;
    fixture.refresh().await;
    soon(lost).await;
    let grants = scope.grants();
    assert!(!grants.may_publish("orders", "eu") && !grants.may_subscribe(&queue) && !grants.may_configure("jobs"));
    // A restored grant is in force again, and the token remains the upper bound.
    grant(&fixture.store, "acme.app", &everything(true)).await;
    fixture.refresh().await;
    assert!(scope.grants().may_subscribe(&queue) && !scope.grants().administers());
}

#[tokio::test]
async fn a_demoted_administrator_is_refused_and_a_change_in_progress_is_not_made() {
    let fixture = Fixture::build().await;
    for id in ["admin", "acme.app"] {
        let caller = caller_since(id, SystemTime::now(), everything(true));
        let administrator = fixture.tenants.admit_administrator(&caller).expect("admitted");
        // Another gateway removes its right, and this one has not read the change yet.
        grant(&fixture.store, id, &Grants::everything()).await;
        let acting = fixture.store.acting_for(administrator.authority().clone());
        let back = acting.update_client(&client(id), &changes(&everything(true).to_json())).await;
        assert!(matches!(back, Err(store::Error::AuthorityChanged)), "{back:?}");
        let row = fixture.store.client(&client(id)).await.expect("the store responds").expect("found");
        assert_eq!(row.grants, Grants::everything().to_json());
        fixture.refresh().await;
        assert_eq!(fixture.tenants.admit_administrator(&caller).expect_err("refused"), Error::NotAdministrator);
        assert!(!administrator.grants().administers());
    }
}

#[tokio::test]
async fn a_client_accepts_tokens_of_its_own_issuer_only() {
    let fixture = Fixture::build().await;
    let external = ExternalIdentity { issuer: "https://id.example".into(), id: String::new() };
    let bind = ClientChanges { external: Some(Some(&external)), ..ClientChanges::default() };
    let scope = fixture.publish(&caller("acme.app")).expect("admitted");
    fixture.store.update_client(&client("acme.app"), &bind).await.expect("the store responds").expect("found");
    fixture.refresh().await;
    assert_eq!(soon(scope.ended()).await, Error::UnknownClient);
    let from = |id: &str, issuer: &str| fixture.publish(&Caller::of_external_for_test(&client(id), issuer)).err();
    assert_eq!(from("acme.app", "https://id.example"), None);
    assert_eq!(from("acme.app", "https://else.example"), Some(Error::UnknownClient));
    assert_eq!(fixture.publish(&caller("acme.app")).err(), Some(Error::UnknownClient));
    assert_eq!(from("globex.app", "https://id.example"), Some(Error::UnknownClient), "it is not bound");
}

#[tokio::test]
async fn revoking_a_signing_key_ends_the_streams_that_its_tokens_opened() {
    let fixture = Fixture::build().await;
    let key = |kid: &str| NewKey {
        kid: kid.into(),
        algorithm: "EdDSA".into(),
        private: zeroize::Zeroizing::new(vec![1]),
        public: vec![2],
    };
    fixture.store.create_first_signing_key(&key("test")).await.expect("the store responds");
    // The key "test".
    let ours = caller("acme.app");
    let scope = fixture.publish(&ours).expect("admitted");
    let revoked = fixture.store.revoke_signing_keys(Some("test"), &key("next")).await.expect("revoked");
    assert_eq!(revoked, ["test"]);
    fixture.refresh().await;
    assert_eq!(soon(scope.ended()).await, Error::TokenRevoked);
    assert_eq!(fixture.publish(&ours).expect_err("refused"), Error::TokenRevoked);
    let administrator =
        fixture.tenants.admit_administrator(&caller_since("admin", SystemTime::now(), everything(true)));
    assert_eq!(administrator.expect_err("refused"), Error::TokenRevoked);
    let keys = fixture.store.signing_keys().await.expect("the store responds");
    assert_eq!(keys.iter().map(|key| key.kid.as_str()).collect::<Vec<_>>(), ["next"]);
}

#[tokio::test]
async fn suspending_a_tenant_ends_its_streams_and_no_others() {
    let fixture = Fixture::build().await;
    let (acme, globex) = (caller("acme.app"), caller("globex.app"));
    let (ours, theirs) = (fixture.publish(&acme).expect("admitted"), fixture.publish(&globex).expect("admitted"));
    fixture.store.set_tenant_state(&tenant("acme"), TenantState::Suspended).await.expect("suspended");
    fixture.refresh().await;
    assert_eq!(soon(ours.ended()).await, Error::Suspended);
    assert_eq!(fixture.publish(&acme).expect_err("refused"), Error::Suspended);
    assert!(fixture.publish(&globex).is_ok());
    assert!(futures_util::FutureExt::now_or_never(theirs.ended()).is_none());
}

#[tokio::test]
async fn a_stream_cannot_miss_a_suspension() {
    let fixture = Fixture::build().await;
    let caller = caller("acme.app");
    let before = fixture.publish(&caller).expect("admitted");
    let permit = before.open_stream().expect("a stream");
    for state in [TenantState::Suspended, TenantState::Active] {
        fixture.store.set_tenant_state(&tenant("acme"), state).await.expect("set");
        fixture.refresh().await;
    }
    assert_eq!(soon(before.ended()).await, Error::Suspended);
    assert_eq!(before.renewed(caller.clone()).expect_err("over"), Error::Suspended);
    let after = fixture.publish(&caller).expect("admitted again");
    assert!(futures_util::FutureExt::now_or_never(after.ended()).is_none());
    // The earlier stream still counts until it is closed.
    assert_eq!(fixture.tenants.usage(&tenant("acme")).streams, 1);
    drop(permit);
    assert_eq!(fixture.tenants.usage(&tenant("acme")).streams, 0);
}

#[tokio::test]
async fn deleting_a_tenant_ends_its_streams_and_a_new_tenant_of_the_same_id_refuses_its_tokens() {
    let fixture = Fixture::build().await;
    let caller = caller("acme.app");
    let scope = fixture.publish(&caller).expect("admitted");
    fixture.store.delete_tenant(&tenant("acme")).await.expect("deleted");
    fixture.refresh().await;
    assert_eq!(soon(scope.ended()).await, Error::Unknown);
    assert_eq!(fixture.publish(&caller).expect_err("refused"), Error::Unknown);
    next_millisecond().await;
    add_tenant(&fixture.store, "acme").await;
    add_client(&fixture.store, "acme.app").await;
    fixture.refresh().await;
    assert_eq!(fixture.publish(&caller).expect_err("refused"), Error::TokenRevoked);
    assert!(fixture.publish(&caller_since("acme.app", SystemTime::now(), Grants::default())).is_ok());
}

#[tokio::test]
async fn revoking_a_client_ends_its_streams_and_no_others_of_the_tenant() {
    let fixture = Fixture::build().await;
    add_client(&fixture.store, "acme.other").await;
    fixture.refresh().await;
    let (app, other) = (caller("acme.app"), caller("acme.other"));
    let (app_scope, other_scope) =
        (fixture.publish(&app).expect("admitted"), fixture.publish(&other).expect("admitted"));
    fixture.store.revoke_client(&client("acme.app")).await.expect("revoked");
    fixture.refresh().await;
    assert_eq!(soon(app_scope.ended()).await, Error::Revoked);
    assert_eq!(fixture.publish(&app).expect_err("refused"), Error::Revoked);
    assert!(futures_util::FutureExt::now_or_never(other_scope.ended()).is_none());
}

#[tokio::test]
async fn replacing_a_secret_ends_the_streams_that_the_old_one_opened() {
    let fixture = Fixture::build().await;
    let old = caller("acme.app");
    let scope = fixture.publish(&old).expect("admitted");
    next_millisecond().await;
    fixture.store.set_client_secret(&client("acme.app"), "y").await.expect("set");
    fixture.refresh().await;
    assert_eq!(soon(scope.ended()).await, Error::TokenRevoked);
    assert_eq!(fixture.publish(&old).expect_err("refused"), Error::TokenRevoked);
    let new = caller("acme.app");
    let renewed = fixture.publish(&new).expect("admitted");
    assert!(futures_util::FutureExt::now_or_never(renewed.ended()).is_none());
}

#[tokio::test]
async fn a_change_by_another_gateway_is_noticed() {
    let fixture = Fixture::build().await;
    let stop = CancellationToken::new();
    let scope = fixture.publish(&caller("acme.app")).expect("admitted");
    let operation = async {
        fixture.store.set_tenant_state(&tenant("acme"), TenantState::Suspended).await.expect("suspended");
        let why = soon(scope.ended()).await;
        stop.cancel();
        why
    };
    let ((), why) = tokio::join!(fixture.tenants.watch(stop.clone()), operation);
    assert_eq!(why, Error::Suspended);
}

#[tokio::test]
async fn the_snapshot_remains_in_use_while_the_store_is_unavailable() {
    let fixture = Fixture::build().await;
    fixture.store.close().await;
    assert!(fixture.tenants.refresh().await.is_err());
    assert!(fixture.publish(&caller("acme.app")).is_ok());
}

#[tokio::test]
async fn an_unknown_client_is_asked_to_retry_if_it_may_be_new_and_refused_otherwise() {
    let fixture = Fixture::build().await;
    let refused =
        |id: &str, issued| fixture.publish(&caller_since(id, issued, Grants::default())).expect_err("refused");
    let later = SystemTime::now() + Duration::from_secs(1);
    assert!(matches!(refused("acme.new", later), Error::NotYetKnown { .. }));
    assert!(matches!(refused("initech.app", later), Error::NotYetKnown { .. }));
    assert_eq!(refused("acme.new", earlier()), Error::UnknownClient);
    assert_eq!(refused("initech.app", earlier()), Error::Unknown);
}

#[tokio::test]
async fn streams_are_counted_by_tenant_until_they_are_closed() {
    let fixture = Fixture::build().await;
    let scope = fixture.publish(&caller("acme.app")).expect("admitted");
    let mut open: Vec<_> = (0..10).map(|_| scope.open_stream().expect("within the plan")).collect();
    assert_eq!(scope.open_stream().expect_err("over"), Error::TooManyStreams { max: 10 });
    let theirs = fixture.publish(&caller("globex.app")).expect("admitted");
    assert!(theirs.open_stream().is_ok());
    open.pop();
    assert!(scope.clone().open_stream().is_ok());
    // A larger plan applies at once, including to open streams.
    let unlimited = PlanName::parse("unlimited").expect("a plan");
    fixture.store.update_tenant(&tenant("acme"), None, Some(&unlimited)).await.expect("changed");
    fixture.refresh().await;
    open.extend((0..100).map(|_| scope.open_stream().expect("unlimited")));
}

#[tokio::test]
async fn only_the_same_client_can_renew_a_stream() {
    let fixture = Fixture::build().await;
    add_client(&fixture.store, "acme.other").await;
    fixture.refresh().await;
    let scope = fixture.publish(&caller("acme.app")).expect("admitted");
    let again = scope.renewed(caller("acme.app")).expect("renewed");
    assert!(again.caller().expires() >= scope.caller().expires());
    for other in ["acme.other", "globex.app", "admin"] {
        assert_eq!(scope.renewed(caller(other)).expect_err("refused"), Error::OtherCaller, "{other}");
    }
}

#[tokio::test]
async fn subscribers_are_notified_of_every_new_revision() {
    let fixture = Fixture::build().await;
    let mut revision = fixture.tenants.revision();
    revision.mark_unchanged();
    fixture.refresh().await;
    assert!(!revision.has_changed().expect("alive"));
    add_client(&fixture.store, "acme.new").await;
    fixture.refresh().await;
    assert!(revision.has_changed().expect("alive"));
}
