//! Tests of the sources of settings and their priority.

use secrecy::ExposeSecret as _;

use super::*;

const FILE: &str = "WARRENGATE_ENDPOINT=https://127.0.0.1:8443\nWARRENGATE_CA=dev.pem\n\
                    WARRENGATE_ACME_CLIENT_ID=acme.app\nWARRENGATE_ACME_CLIENT_SECRET=acme-secret\n\
                    WARRENGATE_ADMIN_CLIENT_ID=admin\nWARRENGATE_ADMIN_CLIENT_SECRET=admin-secret\n\
                    WARRENGATE_HALF_CLIENT_ID=half\n";

fn settings(args: &ConnectionArgs, environment: &[(&str, &str)], with_file: bool) -> Result<Settings, Error> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("dev.env");
    if with_file {
        std::fs::write(&path, FILE).expect("written");
    }
    let file = DevEnv::read(&path).expect("read");
    let lookup = |name: &str| environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
    Sources { args, environment: &lookup, file }.settings(DATA)
}

fn who(credentials: &Credentials) -> String {
    match credentials {
        Credentials::Secret { client_id, secret } => format!("{client_id}/{}", secret.expose_secret()),
        Credentials::Token(token) => format!("token {}", token.expose_secret()),
        Credentials::Source(_) => "a source of tokens".to_owned(),
        Credentials::Anonymous => "nobody".to_owned(),
    }
}

#[test]
fn the_development_file_alone_is_sufficient() {
    let found = settings(&ConnectionArgs::default(), &[], true).expect("settings");
    assert_eq!(found.endpoint, "https://127.0.0.1:8443");
    assert_eq!(found.ca, Some("dev.pem".into()));
    assert_eq!(who(&found.credentials), "acme.app/acme-secret");
    let args = ConnectionArgs { identity: Some("admin".into()), ..Default::default() };
    assert_eq!(who(&settings(&args, &[], true).expect("settings").credentials), "admin/admin-secret");
}

#[test]
fn flags_have_precedence_over_the_environment_and_that_over_the_file() {
    let environment = [("WARRENGATE_CLIENT_ID", "env.id"), ("WARRENGATE_CLIENT_SECRET", "env-secret")];
    let found = settings(&ConnectionArgs::default(), &environment, true).expect("settings");
    assert_eq!(who(&found.credentials), "env.id/env-secret");
    let origin = "env.id: the id from WARRENGATE_CLIENT_ID, the secret from WARRENGATE_CLIENT_SECRET (which has priority over \
                  .warrengate/dev.env)";
    assert_eq!(found.origin, origin);

    let args = ConnectionArgs { client_id: Some("flag.id".into()), ..Default::default() };
    let with_token = [environment[0], environment[1], ("WARRENGATE_TOKEN", "env-token")];
    let found = settings(&args, &with_token, true).expect("settings");
    assert_eq!(who(&found.credentials), "flag.id/env-secret");

    let args = ConnectionArgs { identity: Some("acme".into()), ..Default::default() };
    let found = settings(&args, &with_token, true).expect("settings");
    assert_eq!(who(&found.credentials), "acme.app/acme-secret");

    let args = ConnectionArgs { token: Some("flag-token".into()), ..Default::default() };
    assert_eq!(who(&settings(&args, &environment, true).expect("settings").credentials), "token flag-token");
}

#[test]
fn the_development_files_secrets_and_authority_are_used_for_its_own_gateway_only() {
    let elsewhere = [("WARRENGATE_ENDPOINT", "https://gateway.example")];
    assert!(matches!(settings(&ConnectionArgs::default(), &elsewhere, true), Err(Error::Usage(_))));
    let args = ConnectionArgs { token: Some("t".into()), ..Default::default() };
    assert_eq!(settings(&args, &elsewhere, true).expect("settings").ca, None);
    let args = ConnectionArgs { identity: Some("acme".into()), ..Default::default() };
    assert!(matches!(settings(&args, &elsewhere, true), Err(Error::Usage(_))));
}

#[test]
fn missing_settings_are_reported() {
    let usage_error = |args: ConnectionArgs, environment: &[(&str, &str)], with_file| {
        settings(&args, environment, with_file).expect_err("refused").to_string()
    };
    let none = ConnectionArgs::default;
    assert!(usage_error(none(), &[], false).contains("--endpoint"));
    assert!(usage_error(none(), &[("WARRENGATE_CLIENT_ID", "a")], true).contains("WARRENGATE_CLIENT_SECRET"));
    assert!(usage_error(none(), &[("WARRENGATE_CLIENT_SECRET", "a")], true).contains("--client-id"));
    let args = |name: &str| ConnectionArgs { identity: Some(name.into()), ..none() };
    assert!(usage_error(args("initech"), &[], true).contains("acme, admin"));
    assert!(usage_error(args("half"), &[], true).contains("half"));
}
