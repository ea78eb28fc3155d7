//! `Node` and `Cluster` with a real RabbitMQ.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use super::{layout::Layout, *};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// An authority, a certificate for the loopback address, and definitions with an administrator.
fn files(folder: &Path) -> NodeFiles {
    let at = |name: &str| folder.join(name);
    let files = NodeFiles {
        authority: at("ca.pem"),
        certificate: at("broker.pem"),
        key: at("broker.key"),
        definitions: at("definitions.json"),
    };
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(DnType::CommonName, "test authority");
    let authority_key = KeyPair::generate().expect("a key");
    let certificate = authority.self_signed(&authority_key).expect("an authority");
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().expect("a key");
    let broker = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).expect("names");
    let broker = broker.signed_by(&key, &issuer).expect("a certificate");
    let definitions = r#"{"users": [{"name": "test", "password_hash": "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR",
        "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": ["administrator"], "limits": {}}],
        "vhosts": [], "permissions": []}"#;
    for (path, text) in [
        (&files.authority, certificate.pem()),
        (&files.certificate, broker.pem()),
        (&files.key, key.serialize_pem()),
        (&files.definitions, definitions.to_owned()),
    ] {
        std::fs::write(path, text).expect("written");
    }
    files
}

fn options(folder: &Path) -> NodeOptions {
    // `./scripts/test --broker PATH`
    let installation = std::env::var_os("WARRENGATE_TEST_BROKER").map(PathBuf::from);
    NodeOptions { installation, ..NodeOptions::new(folder.join("node"), files(folder)) }
}

/// The command lines that contain this node's name or folder.
fn remaining(folder: &Path) -> Vec<String> {
    let folder = std::fs::canonicalize(folder).expect("real").display().to_string();
    let name = std::fs::read_to_string(Path::new(&folder).join("node/node-name")).unwrap_or(folder.clone());
    process::all().into_iter().map(|p| p.command).filter(|c| c.contains(&folder) || c.contains(name.trim())).collect()
}

/// Whether the broker answers an AMQP header without TLS.
fn speaks_plain_amqp(port: u16) -> bool {
    let mut stream = TcpStream::connect(ports::loopback(port)).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
    stream.write_all(b"AMQP\0\0\x09\x01").expect("written");
    let mut answer = [0; 8];
    let read = stream.read(&mut answer).unwrap_or(0);
    // Connection.start is a method frame on channel 0.
    read > 0 && answer[0] == 1
}

#[tokio::test]
async fn a_node_restarts_after_a_kill_with_its_data_and_leaves_no_process_behind() {
    let folder = tempfile::tempdir().expect("folder");
    let progress = Arc::new(Mutex::new(Vec::new()));
    let sink = progress.clone();
    let options = NodeOptions {
        progress: Arc::new(move |line| sink.lock().expect("lock").push(line.to_owned())),
        ..options(folder.path())
    };
    let node = Node::start(options.clone()).await.expect("started");
    assert!(node.is_running());
    assert!(progress.lock().expect("lock").iter().any(|line| line.starts_with("broker ready after")));
    assert!(!speaks_plain_amqp(node.amqps_port()));

    let again = Node::start(options).await.expect_err("the folder is in use");
    assert!(matches!(again, Error::InUse(_)), "{again}");

    let data = node.dir().join("data");
    let before = std::fs::metadata(&data).expect("data").created().ok();
    node.kill().expect("killed");
    assert!(!node.is_running());
    let port = node.amqps_port();
    node.restart().await.expect("back");
    assert!(node.is_running() && node.amqps_port() == port);
    assert_eq!(std::fs::metadata(&data).expect("data").created().ok(), before);

    node.pause().expect("paused");
    node.resume().expect("resumed");
    node.stop().await.expect("stopped");
    node.stop().await.expect("stopping twice is not an error");
    assert_eq!(remaining(folder.path()), Vec::<String>::new());
    assert!(ports::is_free(port));
}

#[tokio::test]
async fn a_dropped_node_ends_at_once() {
    let folder = tempfile::tempdir().expect("folder");
    let node = Node::start(options(folder.path())).await.expect("started");
    drop(node);
    assert_eq!(remaining(folder.path()), Vec::<String>::new());
}

#[tokio::test]
async fn the_error_of_a_broker_that_cannot_start_quotes_its_log() {
    let folder = tempfile::tempdir().expect("folder");
    let options = NodeOptions { extra_config: "no_such_key = 1".into(), ..options(folder.path()) };
    let error = Node::start(options).await.expect_err("not started");
    assert!(matches!(error, Error::Stopped { .. }) && error.to_string().contains("no_such_key"), "{error}");
    assert_eq!(remaining(folder.path()), Vec::<String>::new());
}

#[tokio::test]
async fn a_leftover_process_of_this_node_is_ended_and_others_are_not() {
    use std::{os::unix::process::CommandExt as _, process::Command};
    let folder = tempfile::tempdir().expect("folder");
    let layout = Layout::lock(folder.path(), None).expect("locked");
    // A process with the node's marker in its command line, like a broker of an earlier run.
    let mut leftover = Command::new("/bin/sh")
        .args(["-c", "while :; do sleep 600; done", "sh"])
        .args(layout.process_marker().split(' '))
        .process_group(0)
        .spawn()
        .expect("started");
    let mut other = Command::new("sleep").arg("600").process_group(0).spawn().expect("started");
    let listed = |group| process::all().iter().any(|p| p.group == group && p.command.contains("600"));
    let deadline = Instant::now() + Duration::from_secs(5);
    while !(listed(leftover.id()) && listed(other.id())) && Instant::now() < deadline {
        tokio::task::yield_now().await;
    }
    private::end_leftovers(&layout, &options(folder.path())).await.expect("ended");
    assert!(leftover.try_wait().expect("reaped").is_some());
    assert!(other.try_wait().expect("alive").is_none());
    other.kill().and_then(|()| other.wait()).expect("ended");
}

#[tokio::test]
async fn cluster_nodes_find_each_other_rejoin_after_a_kill_and_leave_no_process_behind() {
    let folder = tempfile::tempdir().expect("folder");
    let cluster = Cluster::start(ClusterOptions::new(options(folder.path()))).await.expect("started");
    assert_eq!(cluster.nodes().len(), 3);
    let running = async |node: &Node| {
        let count = node.control(&["eval", "length(rabbit_nodes:all_running())."]).await.expect("answered");
        count.trim().parse::<usize>().expect("a number")
    };
    assert_eq!(running(&cluster.nodes()[2]).await, 3);
    cluster.nodes()[0].kill().expect("killed");
    cluster.nodes()[0].restart().await.expect("back");
    let deadline = Instant::now() + Duration::from_secs(60);
    while running(&cluster.nodes()[1]).await < 3 {
        assert!(Instant::now() < deadline, "the node did not rejoin its cluster");
    }
    cluster.stop().await.expect("stopped");
    assert_eq!(remaining(folder.path()), Vec::<String>::new());
}
