//! Admission over a real store, and what ends it.

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
    store.create_tenant(&NewTenant { id: tenant(id), display_name: id.into(), plan }).await.expect("made");
}

/// With all grants.
async fn add_client(store: &Store, id: &str) {
    let grants = everything(true).to_json();
    let new = NewClient { id: client(id), display_name: id.into(), secret_hash: "x".into(), grants, external: None };
    store.create_client(&new).await.expect("asked").expect("made");
}

fn everything(administer: bool) -> Grants {
    Grants::parse(&pb::Grants { administer, ..Grants::everything().to_pb() }).expect("grants")
}

fn changes(grants: &str) -> ClientChanges<'_> {
    ClientChanges { grants: Some(grants), ..ClientChanges::default() }
}

/// Changes a client's grants in the store.
async fn grant(store: &Store, id: &str, grants: &Grants) {
    store.update_client(&client(id), &changes(&grants.to_json())).await.expect("asked").expect("changed");
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

/// A second ago, which is before the last reading of the store.
fn earlier() -> SystemTime {
    SystemTime::now() - Duration::from_secs(1)
}

/// The store keeps moments in milliseconds: what happens after this is later than what happened before it.
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
async fn a_client_is_let_into_its_own_tenant() {
    let house = Fixture::build().await;
    let scope = house.publish(&caller("acme.app")).expect("admitted");
    assert_eq!((scope.tenant().as_str(), scope.vhost(), scope.plan().name.as_str()), ("acme", "wg.acme", "free"));
}

#[tokio::test]
async fn a_platform_administrator_has_no_place_on_the_data_plane() {
    let house = Fixture::build().await;
    assert_eq!(house.publish(&caller("admin")).expect_err("refused"), Error::NoTenant);
}

#[tokio::test]
async fn administering_must_be_granted() {
    let house = Fixture::build().await;
    let refused = |caller: &Caller| house.tenants.admit_administrator(caller).err();
    for id in ["admin", "acme.app"] {
        assert_eq!(refused(&caller(id)), Some(Error::NotAdministrator), "{id}");
        let granted = caller_since(id, SystemTime::now(), Grants::administrator());
        assert_eq!(refused(&granted), None, "{id}");
    }
    let own = caller_since("acme.app", SystemTime::now(), Grants::administrator());
    let own = house.tenants.admit_administrator(&own).expect("admitted");
    assert!(own.may_manage_clients_of(Some(&tenant("acme"))));
    assert!(!own.may_manage_clients_of(Some(&tenant("globex"))));
    assert!(!own.may_manage_clients_of(None));
}

#[tokio::test]
async fn a_grant_that_was_taken_away_is_gone_whatever_an_older_token_says() {
    let house = Fixture::build().await;
    let queue = QueueName::parse("jobs").expect("a name");
    let scope = house.publish(&caller("acme.app")).expect("admitted");
    let lost = scope.grant_lost(|grants| grants.may_subscribe(&queue));
    tokio::pin!(lost);
    assert!(futures_util::FutureExt::now_or_never(lost.as_mut()).is_none(), "it is granted");
    grant(&house.store, "acme.app", &Grants::administrator()).await;
    house.refresh().await;
    soon(lost).await;
    let grants = scope.grants();
    assert!(!grants.may_publish("orders", "eu") && !grants.may_subscribe(&queue) && !grants.may_configure("jobs"));
    // A grant that came back counts, and the token remains the upper bound.
    grant(&house.store, "acme.app", &everything(true)).await;
    house.refresh().await;
    assert!(scope.grants().may_subscribe(&queue) && !scope.grants().administers());
}

#[tokio::test]
async fn a_demoted_administrator_is_refused_and_its_change_that_has_begun_is_not_made() {
    let house = Fixture::build().await;
    for id in ["admin", "acme.app"] {
        let caller = caller_since(id, SystemTime::now(), everything(true));
        let administrator = house.tenants.admit_administrator(&caller).expect("admitted");
        // Another gateway takes its right away, and this one has not read of it yet.
        grant(&house.store, id, &Grants::everything()).await;
        let acting = house.store.acting_for(administrator.authority().clone());
        let back = acting.update_client(&client(id), &changes(&everything(true).to_json())).await;
        assert!(matches!(back, Err(store::Error::AuthorityChanged)), "{back:?}");
        let row = house.store.client(&client(id)).await.expect("asked").expect("there");
        assert_eq!(row.grants, Grants::everything().to_json());
        house.refresh().await;
        assert_eq!(house.tenants.admit_administrator(&caller).expect_err("refused"), Error::NotAdministrator);
        assert!(!administrator.grants().administers());
    }
}

#[tokio::test]
async fn a_client_is_reached_by_tokens_of_its_own_issuer_only() {
    let house = Fixture::build().await;
    let external = ExternalIdentity { issuer: "https://id.example".into(), id: String::new() };
    let bind = ClientChanges { external: Some(Some(&external)), ..ClientChanges::default() };
    let scope = house.publish(&caller("acme.app")).expect("admitted");
    house.store.update_client(&client("acme.app"), &bind).await.expect("asked").expect("there");
    house.refresh().await;
    assert_eq!(soon(scope.ended()).await, Error::UnknownClient);
    let from = |id: &str, issuer: &str| house.publish(&Caller::of_external_for_test(&client(id), issuer)).err();
    assert_eq!(from("acme.app", "https://id.example"), None);
    assert_eq!(from("acme.app", "https://else.example"), Some(Error::UnknownClient));
    assert_eq!(house.publish(&caller("acme.app")).err(), Some(Error::UnknownClient));
    assert_eq!(from("globex.app", "https://id.example"), Some(Error::UnknownClient), "it is not bound");
}

#[tokio::test]
async fn a_key_that_is_distrusted_ends_what_its_tokens_opened() {
    let house = Fixture::build().await;
    let key = |kid: &str| NewKey {
        kid: kid.into(),
        algorithm: "EdDSA".into(),
        private: zeroize::Zeroizing::new(vec![1]),
        public: vec![2],
    };
    house.store.create_first_signing_key(&key("test")).await.expect("asked");
    // Of the key "test".
    let ours = caller("acme.app");
    let scope = house.publish(&ours).expect("admitted");
    let revoked = house.store.revoke_signing_keys(Some("test"), &key("next")).await.expect("revoked");
    assert_eq!(revoked, ["test"]);
    house.refresh().await;
    assert_eq!(soon(scope.ended()).await, Error::TokenWithdrawn);
    assert_eq!(house.publish(&ours).expect_err("refused"), Error::TokenWithdrawn);
    let administrator = house.tenants.admit_administrator(&caller_since("admin", SystemTime::now(), everything(true)));
    assert_eq!(administrator.expect_err("refused"), Error::TokenWithdrawn);
    let keys = house.store.signing_keys().await.expect("asked");
    assert_eq!(keys.iter().map(|key| key.kid.as_str()).collect::<Vec<_>>(), ["next"]);
}

#[tokio::test]
async fn suspending_a_tenant_ends_its_streams_and_no_others() {
    let house = Fixture::build().await;
    let (acme, globex) = (caller("acme.app"), caller("globex.app"));
    let (ours, theirs) = (house.publish(&acme).expect("admitted"), house.publish(&globex).expect("admitted"));
    house.store.set_tenant_state(&tenant("acme"), TenantState::Suspended).await.expect("suspended");
    house.refresh().await;
    assert_eq!(soon(ours.ended()).await, Error::Suspended);
    assert_eq!(house.publish(&acme).expect_err("refused"), Error::Suspended);
    assert!(house.publish(&globex).is_ok());
    assert!(futures_util::FutureExt::now_or_never(theirs.ended()).is_none());
}

#[tokio::test]
async fn a_stream_cannot_sleep_through_a_suspension() {
    let house = Fixture::build().await;
    let caller = caller("acme.app");
    let before = house.publish(&caller).expect("admitted");
    let permit = before.open_stream().expect("a stream");
    for state in [TenantState::Suspended, TenantState::Active] {
        house.store.set_tenant_state(&tenant("acme"), state).await.expect("set");
        house.refresh().await;
    }
    assert_eq!(soon(before.ended()).await, Error::Suspended);
    assert_eq!(before.renewed(caller.clone()).expect_err("over"), Error::Suspended);
    let after = house.publish(&caller).expect("admitted again");
    assert!(futures_util::FutureExt::now_or_never(after.ended()).is_none());
    // The stream of before still counts until it is closed.
    assert_eq!(house.tenants.usage(&tenant("acme")).streams, 1);
    drop(permit);
    assert_eq!(house.tenants.usage(&tenant("acme")).streams, 0);
}

#[tokio::test]
async fn deleting_a_tenant_ends_its_streams_and_its_tokens_do_not_open_its_successor() {
    let house = Fixture::build().await;
    let caller = caller("acme.app");
    let scope = house.publish(&caller).expect("admitted");
    house.store.delete_tenant(&tenant("acme")).await.expect("deleted");
    house.refresh().await;
    assert_eq!(soon(scope.ended()).await, Error::Unknown);
    assert_eq!(house.publish(&caller).expect_err("refused"), Error::Unknown);
    next_millisecond().await;
    add_tenant(&house.store, "acme").await;
    add_client(&house.store, "acme.app").await;
    house.refresh().await;
    assert_eq!(house.publish(&caller).expect_err("refused"), Error::TokenWithdrawn);
    assert!(house.publish(&caller_since("acme.app", SystemTime::now(), Grants::default())).is_ok());
}

#[tokio::test]
async fn revoking_a_client_ends_its_streams_and_leaves_the_tenant() {
    let house = Fixture::build().await;
    add_client(&house.store, "acme.other").await;
    house.refresh().await;
    let (app, other) = (caller("acme.app"), caller("acme.other"));
    let (app_scope, other_scope) = (house.publish(&app).expect("in"), house.publish(&other).expect("in"));
    house.store.revoke_client(&client("acme.app")).await.expect("revoked");
    house.refresh().await;
    assert_eq!(soon(app_scope.ended()).await, Error::Revoked);
    assert_eq!(house.publish(&app).expect_err("refused"), Error::Revoked);
    assert!(futures_util::FutureExt::now_or_never(other_scope.ended()).is_none());
}

#[tokio::test]
async fn a_new_secret_ends_what_the_old_one_opened() {
    let house = Fixture::build().await;
    let old = caller("acme.app");
    let scope = house.publish(&old).expect("admitted");
    next_millisecond().await;
    house.store.set_client_secret(&client("acme.app"), "y").await.expect("set");
    house.refresh().await;
    assert_eq!(soon(scope.ended()).await, Error::TokenWithdrawn);
    assert_eq!(house.publish(&old).expect_err("refused"), Error::TokenWithdrawn);
    let new = caller("acme.app");
    let renewed = house.publish(&new).expect("admitted");
    assert!(futures_util::FutureExt::now_or_never(renewed.ended()).is_none());
}

#[tokio::test]
async fn another_gateways_act_arrives_by_itself() {
    let house = Fixture::build().await;
    let stop = CancellationToken::new();
    let scope = house.publish(&caller("acme.app")).expect("admitted");
    let act = async {
        house.store.set_tenant_state(&tenant("acme"), TenantState::Suspended).await.expect("suspended");
        let why = soon(scope.ended()).await;
        stop.cancel();
        why
    };
    let ((), why) = tokio::join!(house.tenants.watch(stop.clone()), act);
    assert_eq!(why, Error::Suspended);
}

#[tokio::test]
async fn what_is_known_stays_while_the_store_is_away() {
    let house = Fixture::build().await;
    house.store.close().await;
    assert!(house.tenants.refresh().await.is_err());
    assert!(house.publish(&caller("acme.app")).is_ok());
}

#[tokio::test]
async fn an_unknown_client_is_told_to_wait_when_it_may_be_new_and_refused_when_it_is_not() {
    let house = Fixture::build().await;
    let refused = |id: &str, issued| house.publish(&caller_since(id, issued, Grants::default())).expect_err("refused");
    let later = SystemTime::now() + Duration::from_secs(1);
    assert!(matches!(refused("acme.new", later), Error::NotYetKnown { .. }));
    assert!(matches!(refused("initech.app", later), Error::NotYetKnown { .. }));
    assert_eq!(refused("acme.new", earlier()), Error::UnknownClient);
    assert_eq!(refused("initech.app", earlier()), Error::Unknown);
}

#[tokio::test]
async fn streams_are_counted_by_tenant_and_given_back() {
    let house = Fixture::build().await;
    let scope = house.publish(&caller("acme.app")).expect("admitted");
    let mut open: Vec<_> = (0..10).map(|_| scope.open_stream().expect("within the plan")).collect();
    assert_eq!(scope.open_stream().expect_err("over"), Error::TooManyStreams { max: 10 });
    let theirs = house.publish(&caller("globex.app")).expect("admitted");
    assert!(theirs.open_stream().is_ok());
    open.pop();
    assert!(scope.clone().open_stream().is_ok());
    // A larger plan counts at once, for streams that are open already, too.
    let unlimited = PlanName::parse("unlimited").expect("a plan");
    house.store.update_tenant(&tenant("acme"), None, Some(&unlimited)).await.expect("changed");
    house.refresh().await;
    open.extend((0..100).map(|_| scope.open_stream().expect("unlimited")));
}

#[tokio::test]
async fn a_stream_is_renewed_by_its_own_client_only() {
    let house = Fixture::build().await;
    add_client(&house.store, "acme.other").await;
    house.refresh().await;
    let scope = house.publish(&caller("acme.app")).expect("admitted");
    let again = scope.renewed(caller("acme.app")).expect("renewed");
    assert!(again.caller().expires() >= scope.caller().expires());
    for other in ["acme.other", "globex.app", "admin"] {
        assert_eq!(scope.renewed(caller(other)).expect_err("refused"), Error::OtherCaller, "{other}");
    }
}

#[tokio::test]
async fn whoever_keeps_something_else_of_the_store_hears_of_changes() {
    let house = Fixture::build().await;
    let mut revision = house.tenants.revision();
    revision.mark_unchanged();
    house.refresh().await;
    assert!(!revision.has_changed().expect("alive"));
    add_client(&house.store, "acme.new").await;
    house.refresh().await;
    assert!(revision.has_changed().expect("alive"));
}
