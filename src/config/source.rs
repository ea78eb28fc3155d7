//! Where values come from: a TOML file, and over it the environment. Text enters; typed values leave one by one, and every
//! fault is kept until all keys were asked for. A key that nobody asked for is a fault as well.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Write as _,
    path::PathBuf,
    time::Duration,
};

use secrecy::SecretString;

use super::{ConfigError, traces};

const PREFIX: &str = "WARRENGATE_";

/// What one key was given.
#[derive(Debug, Clone)]
enum Given {
    File(toml::Value),
    /// The variable's name, and its text.
    Environment(String, String),
}

/// All values that were given, and what was wrong with them.
#[derive(Debug, Default)]
pub(super) struct Source {
    given: BTreeMap<String, Given>,
    asked: BTreeSet<&'static str>,
    faults: Vec<ConfigError>,
}

impl Source {
    /// Takes a file's text and the environment. `WARRENGATE_GRPC__LISTEN` is `grpc.listen`; a variable without `__` is not a
    /// setting of the gateway (the command line has some), but for `WARRENGATE_DATABASE_URL`, which is `store.url`.
    /// OpenTelemetry's variables count as they do everywhere.
    pub(super) fn new(file: Option<&str>, environment: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut source = Self::default();
        if let Some(text) = file {
            match text.parse::<toml::Table>() {
                Ok(table) => source.flatten("", table),
                // The parser's text quotes the line at fault, which may hold a secret: the place is enough.
                Err(error) => {
                    let place = error.span().map_or(0, |span| text.get(..span.start).unwrap_or(text).lines().count());
                    source.fault("the file", None, format!("is not TOML: {} (line {place})", error.message()));
                }
            }
        }
        let environment: HashMap<_, _> = environment.into_iter().collect();
        for (key, name, value) in traces::standard(&environment) {
            source.given.insert(key.to_owned(), Given::Environment(name, value));
        }
        for (name, value) in environment {
            let Some(rest) = name.strip_prefix(PREFIX) else { continue };
            let key = match rest {
                "DATABASE_URL" => "store.url".to_owned(),
                _ if rest.contains("__") => rest.replace("__", ".").to_ascii_lowercase(),
                _ => continue,
            };
            if !value.is_empty() {
                source.given.insert(key, Given::Environment(name, value));
            }
        }
        source
    }

    fn flatten(&mut self, prefix: &str, table: toml::Table) {
        for (name, value) in table {
            let key = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
            match value {
                toml::Value::Table(table) => self.flatten(&key, table),
                value => drop(self.given.insert(key, Given::File(value))),
            }
        }
    }

    pub(super) fn fault(&mut self, key: &str, value: Option<String>, what: impl Into<String>) {
        self.faults.push(ConfigError { key: key.to_owned(), value, what: what.into() });
    }

    /// Whether the key was given a value.
    pub(super) fn is_given(&self, key: &str) -> bool {
        self.given.contains_key(key)
    }

    /// Text; a fault when it is something else.
    pub(super) fn text(&mut self, key: &'static str) -> Option<String> {
        self.asked.insert(key);
        match self.given.get(key)?.clone() {
            Given::Environment(_, text) | Given::File(toml::Value::String(text)) => Some(text),
            Given::File(other) => {
                self.fault(key, Some(other.to_string()), "must be text in quotes");
                None
            }
        }
    }

    /// Text that is never shown in a fault.
    pub(super) fn secret(&mut self, key: &'static str) -> Option<SecretString> {
        self.asked.insert(key);
        match self.given.get(key)?.clone() {
            Given::Environment(_, text) | Given::File(toml::Value::String(text)) => Some(text.into()),
            Given::File(_) => {
                self.fault(key, None, "must be text in quotes");
                None
            }
        }
    }

    /// A secret from the environment, or from the file that `<key>_file` names; never from the configuration file itself.
    pub(super) fn secret_or_file(&mut self, key: &'static str, file_key: &'static str) -> Option<SecretString> {
        self.asked.insert(key);
        let path = self.path(file_key);
        match (self.given.get(key).cloned(), path) {
            (Some(Given::File(_)), _) => {
                let what = format!(
                    "does not belong into this file: write it into a file of its own, readable by the gateway only, and \
                     name that in {file_key}"
                );
                self.fault(key, None, what);
                None
            }
            (Some(Given::Environment(name, _)), Some(_)) => {
                self.fault(key, None, format!("is given twice, by {name} and by {file_key}: remove one"));
                None
            }
            (Some(Given::Environment(_, text)), None) => Some(text.into()),
            (None, Some(path)) => match std::fs::read_to_string(&path) {
                Ok(text) if text.trim().is_empty() => {
                    self.fault(
                        file_key,
                        Some(path.display().to_string()),
                        "is an empty file: write the secret into it",
                    );
                    None
                }
                Ok(text) => Some(text.trim_end_matches(['\r', '\n']).to_owned().into()),
                Err(error) => {
                    let what = format!("cannot be read: {}; make it readable by the gateway", error.kind());
                    self.fault(file_key, Some(path.display().to_string()), what);
                    None
                }
            },
            (None, None) => {
                self.fault(
                    key,
                    None,
                    format!("is needed: name a file that holds it in {file_key}, or set {}", variable(key)),
                );
                None
            }
        }
    }

    /// What `parse` makes of a text, or of the default.
    pub(super) fn parsed<T>(&mut self, key: &'static str, default: T, parse: impl Fn(&str) -> Result<T, String>) -> T {
        let Some(text) = self.text(key) else { return default };
        parse(&text).unwrap_or_else(|what| {
            self.fault(key, Some(text), what);
            default
        })
    }

    /// A text that must be given; empty after a fault.
    pub(super) fn required(&mut self, key: &'static str, what: &str) -> String {
        let text = self.text(key);
        if text.is_none() && !self.is_given(key) {
            self.fault(key, None, format!("is needed: {what}"));
        }
        text.unwrap_or_default()
    }

    pub(super) fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        self.text(key).map(PathBuf::from)
    }

    /// A path that must be given; empty after a fault.
    pub(super) fn required_path(&mut self, key: &'static str, what: &str) -> PathBuf {
        self.required(key, what).into()
    }

    pub(super) fn boolean(&mut self, key: &'static str, default: bool) -> bool {
        if let Some(Given::File(toml::Value::Boolean(value))) = self.given.get(key) {
            self.asked.insert(key);
            return *value;
        }
        self.parsed(key, default, |text| text.parse().map_err(|_| "must be true or false".to_owned()))
    }

    /// A number between bounds; `4KiB`, `4MiB` and `1GiB` are numbers too.
    pub(super) fn number(&mut self, key: &'static str, default: u64, min: u64, max: u64) -> u64 {
        self.asked.insert(key);
        let (shown, value) = match self.given.get(key).cloned() {
            None => return default,
            Some(Given::File(toml::Value::Integer(value))) => (value.to_string(), u64::try_from(value).ok()),
            Some(Given::File(toml::Value::String(text)) | Given::Environment(_, text)) => (text.clone(), size(&text)),
            Some(Given::File(other)) => (other.to_string(), None),
        };
        value.filter(|value| (min..=max).contains(value)).unwrap_or_else(|| {
            self.fault(key, Some(shown), format!("must be a whole number from {min} to {max}"));
            default
        })
    }

    /// A number with a fraction, between bounds.
    pub(super) fn ratio(&mut self, key: &'static str, default: f64) -> f64 {
        self.asked.insert(key);
        let (shown, value) = match self.given.get(key).cloned() {
            None => return default,
            #[allow(clippy::cast_precision_loss, reason = "only 0 and 1 are taken")]
            Some(Given::File(toml::Value::Integer(value))) => (value.to_string(), Some(value as f64)),
            Some(Given::File(toml::Value::Float(value))) => (value.to_string(), Some(value)),
            Some(Given::File(toml::Value::String(text)) | Given::Environment(_, text)) => {
                (text.clone(), text.parse().ok())
            }
            Some(Given::File(other)) => (other.to_string(), None),
        };
        value.filter(|value| (0.0..=1.0).contains(value)).unwrap_or_else(|| {
            self.fault(key, Some(shown), "must be a number from 0 to 1");
            default
        })
    }

    /// A time with its unit, between bounds: `500ms`, `30s`, `5m`, `24h`, `90d`.
    pub(super) fn duration(&mut self, key: &'static str, default: Duration, min: Duration, max: Duration) -> Duration {
        self.parsed_given(key, default, |text| {
            duration(text).filter(|value| (min..=max).contains(value)).ok_or_else(|| {
                format!("must be a time from {} to {}, for example \"{}\"", show(min), show(max), show(default))
            })
        })
    }

    fn parsed_given<T: Copy>(&mut self, key: &'static str, default: T, parse: impl Fn(&str) -> Result<T, String>) -> T {
        if let Some(Given::File(toml::Value::Integer(value))) = self.given.get(key) {
            let value = value.to_string();
            self.asked.insert(key);
            let what = parse(&value).err().unwrap_or_default();
            self.fault(key, Some(value), what);
            return default;
        }
        self.parsed(key, default, parse)
    }

    /// A list of texts; in the environment they are separated by commas.
    pub(super) fn list(&mut self, key: &'static str) -> Vec<String> {
        self.asked.insert(key);
        match self.given.get(key).cloned() {
            None => Vec::new(),
            Some(Given::Environment(_, text)) => text.split(',').map(|item| item.trim().to_owned()).collect(),
            Some(Given::File(toml::Value::Array(items))) if items.iter().all(toml::Value::is_str) => {
                items.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect()
            }
            Some(Given::File(other)) => {
                self.fault(key, Some(other.to_string()), "must be a list of texts, for example [\"a\", \"b\"]");
                Vec::new()
            }
        }
    }

    /// A list of tables; in the environment it is one text, as TOML writes such a list.
    pub(super) fn tables(&mut self, key: &'static str) -> Vec<toml::Table> {
        self.asked.insert(key);
        let (given, shown) = match self.given.get(key).cloned() {
            None => return Vec::new(),
            Some(Given::File(value)) => (Some(value), None),
            Some(Given::Environment(_, text)) => (
                format!("it = {text}").parse::<toml::Table>().ok().and_then(|mut table| table.remove("it")),
                Some(text),
            ),
        };
        let tables = given.and_then(|value| value.try_into::<Vec<toml::Table>>().ok());
        tables.unwrap_or_else(|| {
            self.fault(key, shown, "must be a list of tables, each like those of docs/warrengate.example.toml");
            Vec::new()
        })
    }

    /// All keys that were asked for, and all faults, those of unknown keys included.
    pub(super) fn finish(mut self) -> (BTreeSet<&'static str>, Vec<ConfigError>) {
        let unknown: Vec<_> = self
            .given
            .iter()
            .filter(|(key, _)| !self.asked.contains(key.as_str()))
            .map(|(key, given)| match given {
                Given::File(_) => (key.clone(), "is not a setting: see docs/warrengate.example.toml".to_owned()),
                Given::Environment(name, _) => {
                    (key.clone(), format!("is not a setting: unset {name}, or see docs/warrengate.example.toml"))
                }
            })
            .collect();
        for (key, what) in unknown {
            self.fault(&key, None, what);
        }
        (self.asked, self.faults)
    }
}

/// The environment variable of a key.
pub(super) fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_ascii_uppercase())
}

fn size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    digits.trim_end().parse::<u64>().ok()?.checked_mul(factor)
}

pub(super) fn duration(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let value: u64 = digits.parse().ok()?;
    let seconds = |factor| value.checked_mul(factor).map(Duration::from_secs);
    match &text[digits.len()..] {
        "ms" => Some(Duration::from_millis(value)),
        "s" => seconds(1),
        "m" => seconds(60),
        "h" => seconds(3600),
        "d" => seconds(86_400),
        _ => None,
    }
}

/// As [`Source::duration`] reads it.
pub(super) fn show(duration: Duration) -> String {
    let millis = duration.as_millis();
    let mut text = String::new();
    let _ = match millis {
        0 => write!(text, "0s"),
        // A day is 24 hours, and says so.
        _ if millis > 86_400_000 && millis.is_multiple_of(86_400_000) => write!(text, "{}d", millis / 86_400_000),
        _ if millis.is_multiple_of(3_600_000) => write!(text, "{}h", millis / 3_600_000),
        _ if millis.is_multiple_of(60_000) => write!(text, "{}m", millis / 60_000),
        _ if millis.is_multiple_of(1000) => write!(text, "{}s", millis / 1000),
        _ => write!(text, "{millis}ms"),
    };
    text
}
