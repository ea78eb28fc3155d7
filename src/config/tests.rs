//! Tests of the configuration: all errors are reported at once, secrets are never shown, and the example file is
//! complete.

use std::{collections::BTreeSet, time::Duration};

use proptest::prelude::*;
use secrecy::ExposeSecret as _;

use super::*;

const EXAMPLE: &str = include_str!("../../docs/warrengate.example.toml");

fn environment(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// The example names secret files that do not exist here.
fn example() -> String {
    EXAMPLE.lines().filter(|line| !line.contains("_file = ")).collect::<Vec<_>>().join("\n")
}

fn secrets() -> Vec<(String, String)> {
    environment(&[("WARRENGATE_MANAGEMENT__PASSWORD", "hidden-1"), ("WARRENGATE_STORE__ENCRYPTION_KEY", "hidden-2")])
}

fn errors(file: &str, env: &[(&str, &str)]) -> Vec<String> {
    let env = secrets().into_iter().chain(environment(env));
    let error = Config::parse(Some(file), env).expect_err("errors");
    error.errors().iter().map(ToString::to_string).collect()
}

fn listing(file: &str, env: impl IntoIterator<Item = (String, String)>) -> String {
    Config::parse_listed(Some(file), env).expect("valid").1
}

#[test]
fn the_example_is_valid_and_its_defaults_are_the_defaults() {
    let given = Config::parse(Some(&example()), secrets()).expect("valid");
    // Setting every commented key changes nothing, except for keys without a default.
    let all: Vec<_> = example()
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if is_key(rest) && !rest.contains("/etc/") && !rest.contains("_endpoint = ") => rest.to_owned(),
            _ => line.to_owned(),
        })
        .collect();
    assert_eq!(listing(&example(), secrets()), listing(&all.join("\n"), secrets()));
    assert_eq!(given.auth.issuer, "http://127.0.0.1:8080");
    assert_eq!(given.limits.max_message_bytes, 4_000_000);
}

fn is_key(line: &str) -> bool {
    line.split_once(" = ").is_some_and(|(key, _)| key.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
}

#[test]
fn the_example_names_every_key() {
    let mut source = Source::new(Some(&example()), secrets());
    read::config(&mut source);
    let Finished { read_keys, .. } = source.finish();
    let mut section = "";
    let mut named = BTreeSet::new();
    for line in EXAMPLE.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
        }
        let line = line.trim_start_matches("# ");
        if is_key(line) {
            named.insert(format!("{section}.{}", line.split(' ').next().unwrap_or_default()));
        }
    }
    // These can only be set in the environment, as the comments of the example explain.
    let read_keys: BTreeSet<_> = read_keys
        .into_iter()
        .filter(|key| {
            !["management.password", "store.encryption_key", "console.session_key", "console.sign_in.client_secret"]
                .contains(key)
        })
        .map(str::to_owned)
        .collect();
    assert_eq!(named, read_keys);
}

#[test]
fn open_telemetrys_variables_override_the_file_and_are_overridden_by_ours() {
    let file = format!("{}\notlp_endpoint = \"http://file:4317\"\n", example());
    let with = |env: &[(&str, &str)]| {
        let env = secrets().into_iter().chain(environment(env));
        Config::parse(Some(&file), env).expect("valid").telemetry.traces
    };
    assert_eq!(with(&[]).endpoint.as_deref(), Some("http://file:4317"));
    let standard = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:4318/"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "1500"),
        ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
        ("OTEL_SERVICE_NAME", "edge"),
        ("OTEL_BSP_SCHEDULE_DELAY", "200"),
    ];
    let traces = with(&standard);
    assert_eq!(traces.endpoint.as_deref(), Some("http://all:4318/v1/traces"));
    assert_eq!((traces.timeout.as_millis(), traces.interval.as_millis()), (1500, 200));
    assert_eq!((traces.sample_ratio, traces.service_name.as_str()), (0.25, "edge"));
    let traces = with(&[standard[0], ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://traces:1")]);
    assert_eq!(traces.endpoint.as_deref(), Some("http://traces:1"));
    let traces = with(&[standard[0], ("WARRENGATE_TELEMETRY__OTLP_ENDPOINT", "https://ours:1")]);
    assert_eq!(traces.endpoint.as_deref(), Some("https://ours:1"));
    assert_eq!(with(&[standard[0], ("OTEL_SDK_DISABLED", "true")]).endpoint, None);
    assert_eq!(with(&[standard[0], ("OTEL_TRACES_EXPORTER", "none")]).endpoint, None);
    let bad = errors("[telemetry]\notlp_endpoint = \"collector:4317\"\ntenant_sample_ratios = [\"acme=2\"]\n", &[]);
    assert!(bad.iter().any(|error| error.starts_with("telemetry.otlp_endpoint must be")), "{bad:?}");
    assert!(bad.iter().any(|error| error.contains("\"acme=2\" must be tenants and ratios")), "{bad:?}");
}

#[test]
fn the_environment_overrides_the_file() {
    let env = [
        ("WARRENGATE_GRPC__LISTEN", "[::]:9443"),
        ("WARRENGATE_GRPC__REFLECTION", "true"),
        ("WARRENGATE_BROKER__ENDPOINTS", "a.example:5671, [::1]:5672"),
        ("WARRENGATE_DATABASE_URL", "postgres://me:hidden@db/wg"),
        ("WARRENGATE_LIMITS__MAX_MESSAGE_BYTES", "1MiB"),
        ("WARRENGATE_TELEMETRY__SAMPLE_RATIO", "1"),
        ("WARRENGATE_AUTH__AUDIENCE", ""),
        ("WARRENGATE_TOKEN", "the command line's"),
        ("PATH", "/bin"),
    ];
    let env = secrets().into_iter().chain(environment(&env));
    let config = Config::parse(Some(&example()), env).expect("valid");
    assert_eq!(config.grpc.listen.to_string(), "[::]:9443");
    assert!(config.grpc.reflection);
    let endpoints: Vec<_> = config.broker.endpoints.iter().map(ToString::to_string).collect();
    assert_eq!(endpoints, ["a.example:5671", "[::1]:5672"]);
    assert_eq!(config.store.url.expose_secret(), "postgres://me:hidden@db/wg");
    assert_eq!((config.limits.max_message_bytes, config.auth.audience.as_str()), (1 << 20, "warrengate"));
    assert!((config.telemetry.traces.sample_ratio - 1.0).abs() < f64::EPSILON);
    assert_eq!(config.management.password.expose_secret(), "hidden-1");
}

#[test]
fn all_errors_are_reported_at_once_with_key_value_and_advice() {
    let file = "[grpc]\nlisten = \"nowhere\"\ncertificate = 5\nports = 1\n[ops]\nlisten = \"0.0.0.0:80\"\n\
                [auth]\nleeway = \"31s\"\ntoken_lifetime = 60\n[telemetry]\nlog_format = \"xml\"\nsample_ratio = 2\n\
                [limits]\nmax_message_bytes = \"64MiB\"\nmax_connections = \"1k\"\n[store]\nurl = \"mysql://me:hidden@x\"\n";
    let text = errors(file, &[("WARRENGATE_GRPC__COLOUR", "red")]).join("\n");
    for wanted in [
        "grpc.listen = \"nowhere\" must be an address and a port",
        "grpc.certificate = \"5\" must be text in quotes",
        "grpc.key is required",
        "grpc.ports is not a setting",
        "grpc.colour is not a setting: unset WARRENGATE_GRPC__COLOUR",
        "ops.certificate is required",
        "broker.endpoints is required",
        "broker.ca_key is required",
        "management.endpoints is required",
        "store.url must be \"sqlite:<path>\"",
        "auth.issuer is required",
        "auth.leeway = \"31s\" must be a duration like 500ms, 30s, 5m, \"1h 30m\" or 90d, from 0s to 30s",
        "auth.token_lifetime = \"60\" must be a duration like 500ms, 30s, 5m, \"1h 30m\" or 90d, from 1m to 24h",
        "limits.max_message_bytes = \"64MiB\" must be a number of bytes like 4096, 64KiB, 10MB or 1GiB, from 1KiB to 16MiB",
        "limits.max_connections = \"1k\" must be a whole number from 1 to 1000000",
        "telemetry.log_format = \"xml\" must be",
        "telemetry.sample_ratio = \"2\" must be a number from 0 to 1",
    ] {
        assert!(text.contains(wanted), "{wanted}\n---\n{text}");
    }
    assert!(!text.contains("hidden"), "{text}");
    let error = Config::parse(Some("not toml"), Vec::new()).expect_err("errors").to_string();
    assert!(
        error.starts_with("invalid configuration (") && error.contains(" errors):\n  - the file is not TOML"),
        "{error}"
    );
    assert!(error.contains("the file is not TOML") && error.contains("management.password is required"), "{error}");
}

#[test]
fn secrets_come_from_a_file_or_the_environment_once_and_are_never_shown() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("password");
    std::fs::write(&path, "hidden-3\n").expect("written");
    let path = path.display().to_string();
    let env =
        [("WARRENGATE_MANAGEMENT__PASSWORD_FILE", path.as_str()), ("WARRENGATE_STORE__ENCRYPTION_KEY", "hidden-4")];
    let config = Config::parse(Some(&example()), environment(&env)).expect("valid");
    assert_eq!(config.management.password.expose_secret(), "hidden-3");
    for shown in [listing(&example(), environment(&env)), format!("{config:?}")] {
        assert!(!shown.contains("hidden"), "{shown}");
    }
    assert!(errors(&example(), &env[..1])[0].contains("is set twice"));
    let inside = example().replace("[store]", "[store]\nencryption_key = \"hidden-5\"");
    let error = Config::parse(Some(&inside), environment(&env[..1])).expect_err("errors").to_string();
    assert!(error.contains("must not be in this file") && !error.contains("hidden"), "{error}");
    let missing = [("WARRENGATE_STORE__ENCRYPTION_KEY_FILE", "/nowhere/key")];
    let error = Config::parse(Some(&example()), environment(&missing)).expect_err("errors").to_string();
    assert!(error.contains("store.encryption_key_file = \"/nowhere/key\" cannot be read"), "{error}");
}

#[test]
fn a_printed_configuration_can_be_read_again_and_hides_the_databases_password() {
    let env = secrets()
        .into_iter()
        .chain(environment(&[("WARRENGATE_DATABASE_URL", "postgres://me:hid@den/x@db:5432/wg?password=hidden")]));
    let shown = listing(&example(), env);
    assert!(shown.contains("url = \"postgres://(redacted)@db:5432/wg\""), "{shown}");
    let again: Vec<_> = shown.lines().filter(|line| !line.contains("(redacted)")).collect();
    let (again, listed_again) = Config::parse_listed(Some(&again.join("\n")), secrets()).expect("valid");
    assert_eq!(again.auth.token_lifetime, Duration::from_secs(3600));
    assert_eq!(shown.replace("postgres://(redacted)@db:5432/wg", "sqlite:warrengate.db"), listed_again);
}

#[test]
fn all_missing_files_are_reported() {
    let config = Config::parse(Some(&example().replace("/etc/", "/nowhere/")), secrets()).expect("valid");
    let error = config.check_files().expect_err("errors");
    assert_eq!(error.errors().len(), 6);
    assert!(error.to_string().contains("grpc.key = \"/nowhere/warrengate/gateway.key\" cannot be opened"));
}

proptest! {
    #![proptest_config(crate::names::cases())]

    #[test]
    fn reading_any_text_does_not_panic(
        file in "(\\[(auth|grpc|limits)\\]\n)?([a-z_]{1,12} = (\"\\PC{0,8}\"|-?[0-9]{1,20}|\\[\\])\n){0,3}|\\PC{0,80}",
        issuers in "\\PC{0,40}|\\[\\{issuer = \"\\PC{0,10}\", tenant = \"[a-z]{0,3}\"\\}\\]",
        number in "\\PC{0,10}|[0-9]{0,25}(KiB|MiB|GiB|ms|s|d)?",
        endpoints in "[a-z:\\[\\],0-9.]{0,30}",
    ) {
        let env = [
            ("WARRENGATE_AUTH__ISSUERS", issuers.as_str()),
            ("WARRENGATE_LIMITS__MAX_MESSAGE_BYTES", &number),
            ("WARRENGATE_AUTH__LEEWAY", &number),
            ("WARRENGATE_BROKER__ENDPOINTS", &endpoints),
        ];
        let _ = Config::parse(Some(&file), environment(&env));
    }
}

#[test]
fn dead_peers_are_detected_within_30_seconds_by_default() {
    let limits = Config::parse(Some(&example()), secrets()).expect("valid").limits;
    assert!(limits.keepalive_interval + limits.keepalive_timeout < Duration::from_secs(30));
}

#[test]
fn the_console_is_off_by_default_and_needs_tls_unless_it_listens_on_loopback() {
    let with = |env: &[(&str, &str)]| Config::parse(Some(&example()), secrets().into_iter().chain(environment(env)));
    let console = with(&[]).expect("valid").console;
    assert!(console.listen.is_none() && console.session_key.is_none());
    let listen = |address: &'static str| ("WARRENGATE_CONSOLE__LISTEN", address);
    let key = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, [7; 32]);
    let console = with(&[
        listen("127.0.0.1:8090"),
        ("WARRENGATE_CONSOLE__SESSION_KEY", key.as_str()),
        ("WARRENGATE_CONSOLE__ORIGIN", "https://console.example/"),
        ("WARRENGATE_CONSOLE__TRACE_URL", "https://jaeger.example/trace/{trace_id}"),
    ]);
    let console = console.expect("valid").console;
    assert_eq!(console.origin.as_deref(), Some("https://console.example"));
    assert!(console.session_key.is_some());
    for (env, wanted) in [
        (vec![listen("0.0.0.0:8090")], "console.certificate is needed"),
        (vec![listen("somewhere")], "console.listen = \"somewhere\" must be an address and a port"),
        (vec![("WARRENGATE_CONSOLE__CERTIFICATE", "/a.pem")], "console.certificate and console.key belong together"),
        (
            vec![("WARRENGATE_CONSOLE__ORIGIN", "https://a.example/b")],
            "console.origin = \"https://a.example/b\" must be",
        ),
        (vec![("WARRENGATE_CONSOLE__SESSION_KEY", "c2hvcnQ=")], "console.session_key must be 32 bytes in base64"),
        (
            vec![("WARRENGATE_CONSOLE__TRACE_URL", "https://a.example")],
            "console.trace_url = \"https://a.example\" must",
        ),
        (vec![("WARRENGATE_CONSOLE__TRACE_URL", "javascript:{trace_id}")], "console.trace_url = "),
    ] {
        let text = errors(&example(), &env).join("\n");
        assert!(text.contains(wanted), "{wanted}\n---\n{text}");
    }
}

#[test]
fn a_renamed_key_is_reported_with_its_new_name() {
    let file = example().replace("[auth]", "[auth]\nsecret_checks_at_once = 2\nwrong_secrets_per_client = 3");
    let env = [("WARRENGATE_AUTH__WRONG_SECRETS_PER_ADDRESS", "4")];
    assert_eq!(
        errors(&file, &env),
        [
            "auth.secret_checks_at_once was renamed: write auth.max_concurrent_secret_checks",
            "auth.wrong_secrets_per_address was renamed to auth.failed_logins_per_minute_per_address: set \
             WARRENGATE_AUTH__FAILED_LOGINS_PER_MINUTE_PER_ADDRESS instead of WARRENGATE_AUTH__WRONG_SECRETS_PER_ADDRESS",
            "auth.wrong_secrets_per_client was renamed: write auth.failed_logins_per_minute_per_client",
        ]
    );
}

#[test]
fn durations_and_sizes_have_the_grammar_of_the_command_line() {
    let env = [("WARRENGATE_LIMITS__MAX_MESSAGE_BYTES", "10MB"), ("WARRENGATE_LIMITS__IDLE_TIMEOUT", "1h 30m")];
    let limits = Config::parse(Some(&example()), secrets().into_iter().chain(environment(&env))).expect("valid").limits;
    assert_eq!((limits.max_message_bytes, limits.idle_timeout), (10_000_000, Duration::from_secs(5_400)));
}

#[test]
fn a_secret_that_every_user_can_read_is_reported_and_one_of_a_group_is_not() {
    use std::{fs, os::unix::fs::PermissionsExt as _};
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name).display().to_string();
    let file = example().replace("/etc/warrengate", &dir.path().display().to_string());
    for (name, mode) in [
        ("gateway.key", 0o640),
        ("gateway.pem", 0o644),
        ("broker-ca.key", 0o644),
        ("provisioner.key", 0o620),
        ("store.key", 0o604),
    ] {
        fs::write(path(name), "secret").expect("written");
        fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).expect("set");
    }
    let env = environment(&[
        ("WARRENGATE_MANAGEMENT__PASSWORD", "hidden-1"),
        ("WARRENGATE_STORE__ENCRYPTION_KEY_FILE", &path("store.key")),
    ]);
    let config = Config::parse(Some(&file), env).expect("valid");
    let error = config.check_permissions().expect_err("open files");
    let found: Vec<_> = error.errors().iter().map(|error| (error.key.as_str(), &error.what[..43])).collect();
    assert_eq!(
        found,
        [
            ("broker.ca_key", "contains a secret and has the mode 0644: ru"),
            ("management.key", "contains a secret and has the mode 0620: ru"),
            ("store.encryption_key_file", "contains a secret and has the mode 0604: ru"),
        ]
    );
}
