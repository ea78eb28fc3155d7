//! A typed client for the calls of RabbitMQ's management API that the gateway uses (docs/adr/0015).
//!
//! Responses are read leniently, because 3.10 and 4.x differ and the statistics of a new object are missing. The lookup
//! of an object that does not exist returns `None`, and its removal succeeds. A list that exceeds the maximum size of a
//! response is [`Error::TooLarge`]. Every call can be repeated.
//!
//! The broker's collection of statistics is deprecated and can be disabled. Connections, and the depths of queues
//! without statistics, are read without it; consumers, rates and stored bytes are 0 then.

use std::{collections::BTreeMap, path::Path};

use reqwest::Method;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use super::{
    Cause, Error,
    figures::{Row, Totals},
    http::{Answer, Http, Request},
    rows::{BindingInfo, ExchangeInfo, QueueInfo, QueueTotals},
};
use crate::{config::ManagementConfig, memory::MemoryBudget};

/// The algorithm of password hashes, which must be sent together with a hash.
const HASHING_ALGORITHM: &str = "rabbit_password_hashing_sha256";
/// The maximum number of rows that the broker returns in one page.
const PAGE: usize = 500;

/// The management API.
#[derive(Debug)]
pub(super) struct Client {
    http: Http,
}

/// A broker user.
#[derive(Debug, Deserialize)]
pub(super) struct User {
    /// Missing in the responses of some versions; empty for a user that can only log in with a certificate.
    #[serde(default)]
    pub(super) password_hash: Option<String>,
    #[serde(default)]
    tags: Tags,
}

/// A list, or a text with commas in the responses of old versions.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Tags {
    List(Vec<String>),
    Text(String),
}

/// The permissions of a user in a vhost, as regular expressions for the names of objects.
#[derive(Debug, Deserialize)]
pub(super) struct Permissions {
    pub(super) user: String,
    pub(super) vhost: String,
    pub(super) configure: String,
    pub(super) write: String,
    pub(super) read: String,
}

/// The kind of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PolicyKind {
    Ordinary,
    /// Its limits cannot be exceeded by a queue's arguments.
    Operator,
}

/// A policy that applies to queues.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Policy {
    pub(super) name: String,
    pub(super) pattern: String,
    #[serde(rename = "apply-to")]
    pub(super) apply_to: String,
    pub(super) priority: i64,
    pub(super) definition: Map<String, Value>,
}

/// One page of a list.
pub(super) struct Page<T> {
    pub(super) rows: Vec<T>,
    pub(super) is_last: bool,
}

/// A list whose rows are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Names {
    Queues,
    Exchanges,
    Bindings,
}

impl Client {
    /// Responses are charged to `memory` while they are read and parsed.
    pub(super) fn new(config: &ManagementConfig, broker_ca: &Path, memory: MemoryBudget) -> Result<Self, Error> {
        Ok(Self { http: Http::new(config, broker_ca, memory)? })
    }

    /// Reads the CA, the certificate, its key and the password again whenever their files change, until stopped.
    pub(super) async fn watch_files(&self, stop: CancellationToken) {
        self.http.watch_files(stop).await;
    }

    /// The user that the gateway is authenticated as.
    pub(super) async fn whoami(&self) -> Result<User, Error> {
        self.get(&["whoami"], &[]).await
    }

    /// The names of all users.
    pub(super) async fn user_names(&self) -> Result<Vec<String>, Error> {
        self.names(&["users"]).await
    }

    pub(super) async fn user(&self, name: &str) -> Result<Option<User>, Error> {
        found(self.get(&["users", name], &[]).await)
    }

    /// Creates a user or replaces its password and tags. With an empty hash it can only log in with a certificate.
    pub(super) async fn put_user(&self, name: &str, password_hash: &str, tags: &str) -> Result<(), Error> {
        let mut user = json!({ "password_hash": password_hash, "tags": tags });
        if !password_hash.is_empty() {
            user["hashing_algorithm"] = HASHING_ALGORITHM.into();
        }
        self.put(&["users", name], &user).await
    }

    /// Deletes a user and closes its connections.
    pub(super) async fn delete_user(&self, name: &str) -> Result<(), Error> {
        self.delete(&["users", name], None).await
    }

    pub(super) async fn permissions_of(&self, user: &str) -> Result<Vec<Permissions>, Error> {
        self.get(&["users", user, "permissions"], &[]).await
    }

    /// `None` if the vhost does not exist.
    pub(super) async fn permissions_in(&self, vhost: &str) -> Result<Option<Vec<Permissions>>, Error> {
        found(self.get(&["vhosts", vhost, "permissions"], &[]).await)
    }

    /// Grants a user permission to configure, write and read objects that match one pattern in a vhost.
    pub(super) async fn grant(&self, vhost: &str, user: &str, pattern: &str) -> Result<(), Error> {
        let permissions = json!({ "configure": pattern, "write": pattern, "read": pattern });
        self.put(&["permissions", vhost, user], &permissions).await
    }

    pub(super) async fn revoke(&self, vhost: &str, user: &str) -> Result<(), Error> {
        self.delete(&["permissions", vhost, user], None).await
    }

    /// The names of all vhosts.
    pub(super) async fn vhost_names(&self) -> Result<Vec<String>, Error> {
        self.names(&["vhosts"]).await
    }

    pub(super) async fn vhost_exists(&self, name: &str) -> Result<bool, Error> {
        Ok(found(self.get::<Value>(&["vhosts", name], &[("columns", "name")]).await)?.is_some())
    }

    /// Creates a vhost without a default queue type, because every queue is declared with its type.
    pub(super) async fn create_vhost(&self, name: &str, description: &str) -> Result<(), Error> {
        self.put(&["vhosts", name], &json!({ "description": description })).await
    }

    /// Deletes a vhost with every queue and message in it.
    pub(super) async fn delete_vhost(&self, name: &str) -> Result<(), Error> {
        self.delete(&["vhosts", name], None).await
    }

    /// The limits of a vhost, by name. A negative value means no limit and is omitted.
    pub(super) async fn vhost_limits(&self, vhost: &str) -> Result<BTreeMap<String, u64>, Error> {
        let rows: Vec<Value> = self.get(&["vhost-limits", vhost], &[]).await?;
        let limits = rows.iter().filter_map(|row| row["value"].as_object()).flatten();
        Ok(limits.filter_map(|(name, limit)| Some((name.clone(), limit.as_u64()?))).collect())
    }

    pub(super) async fn set_vhost_limit(&self, vhost: &str, limit: &str, value: u64) -> Result<(), Error> {
        self.put(&["vhost-limits", vhost, limit], &json!({ "value": value })).await
    }

    pub(super) async fn clear_vhost_limit(&self, vhost: &str, limit: &str) -> Result<(), Error> {
        self.delete(&["vhost-limits", vhost, limit], None).await
    }

    pub(super) async fn policies(&self, kind: PolicyKind, vhost: &str) -> Result<Vec<Policy>, Error> {
        self.rows(&[kind.path(), vhost], &[], |row| Policy::deserialize(row).ok()).await
    }

    pub(super) async fn put_policy(&self, kind: PolicyKind, vhost: &str, policy: &Policy) -> Result<(), Error> {
        self.put(&[kind.path(), vhost, &policy.name], policy).await
    }

    pub(super) async fn delete_policy(&self, kind: PolicyKind, vhost: &str, name: &str) -> Result<(), Error> {
        self.delete(&[kind.path(), vhost, name], None).await
    }

    /// Declares exchanges, queues and bindings in a vhost. The broker does so itself, so the gateway's user needs no
    /// permission in the vhost. Existing objects are not changed.
    pub(super) async fn import_definitions(&self, vhost: &str, definitions: &Value) -> Result<(), Error> {
        self.send(Method::POST, &["definitions", vhost], &[], Some(definitions), None).await.map(drop)
    }

    /// The number of a user's connections.
    pub(super) async fn connections_of(&self, user: &str) -> Result<u64, Error> {
        let rows = found(self.rows(&["connections", "username", user], &[], |_| Some(())).await)?;
        Ok(rows.map_or(0, |rows| rows.len() as u64))
    }

    pub(super) async fn close_connections_of(&self, user: &str, reason: &'static str) -> Result<(), Error> {
        self.delete(&["connections", "username", user], Some(reason)).await
    }

    /// Whether the broker collects statistics.
    pub(super) async fn has_statistics(&self) -> Result<bool, Error> {
        let overview: Value = self.get(&["overview"], &[]).await?;
        Ok(overview["disable_stats"] != true)
    }

    /// Versions, and whether statistics are collected.
    pub(super) async fn overview(&self) -> Result<Value, Error> {
        self.get(&["overview"], &[("columns", "rabbitmq_version,erlang_version,cluster_name,disable_stats")]).await
    }

    /// Whether the broker starts the worker for a quorum queue's dead letters only after its declaration: before 4.1,
    /// and assumed when the version is unknown. Such a queue must not be deleted at once (`recent_queues.rs`).
    pub(super) async fn starts_workers_late(&self) -> bool {
        match self.overview().await {
            Ok(overview) => is_before_4_1(overview["rabbitmq_version"].as_str().unwrap_or_default()),
            Err(_) => true,
        }
    }

    /// The broker's nodes.
    pub(super) async fn nodes(&self) -> Result<Vec<Value>, Error> {
        let columns =
            "name,running,mem_alarm,disk_free_alarm,mem_used,mem_limit,disk_free,disk_free_limit,uptime,partitions";
        self.get(&["nodes"], &[("columns", columns)]).await
    }

    pub(super) async fn queue(&self, vhost: &str, name: &str) -> Result<Option<QueueInfo>, Error> {
        let queue = self.row(&["queues", vhost, name], QueueInfo::COLUMNS, QueueInfo::read).await?;
        match queue {
            Some(queue) if !queue.has_statistics => {
                // Names consist of letters, digits, "-", "_", "." and ":" only.
                let pattern = format!("^{}$", name.replace('.', "\\."));
                let query = [("page", "1"), ("page_size", "1"), ("name", pattern.as_str()), ("use_regex", "true")];
                let totals = self.totals(vhost, &query).await?;
                Ok(Some(queue.with_totals(&totals)))
            }
            other => Ok(other),
        }
    }

    /// `None` if the vhost or the page does not exist; pages are numbered from 1.
    pub(super) async fn queues(&self, vhost: &str, page: usize) -> Result<Option<Page<QueueInfo>>, Error> {
        let found = self.page(&["queues", vhost], QueueInfo::COLUMNS, page, QueueInfo::read).await?;
        let Some(Page { rows, is_last }) = found else { return Ok(None) };
        if rows.iter().all(|queue| queue.has_statistics) {
            return Ok(Some(Page { rows, is_last }));
        }
        let (number, size) = (page.to_string(), PAGE.to_string());
        let totals = self.totals(vhost, &[("page", &number), ("page_size", &size), ("sort", "name")]).await?;
        Ok(Some(Page { rows: rows.into_iter().map(|queue| queue.with_totals(&totals)).collect(), is_last }))
    }

    /// The figures of the queues of one vhost or of all of them, as [`Self::queues`].
    pub(super) async fn queue_rows(&self, vhost: Option<&str>, page: usize) -> Result<Option<Page<Row>>, Error> {
        let path: Vec<_> = std::iter::once("queues").chain(vhost).collect();
        let Some(Page { rows, is_last }) = self.page(&path, Row::COLUMNS, page, Row::read).await? else {
            return Ok(None);
        };
        if rows.iter().all(Row::has_statistics) {
            return Ok(Some(Page { rows, is_last }));
        }
        let (number, size) = (page.to_string(), PAGE.to_string());
        let query = [("page", number.as_str()), ("page_size", &size), ("sort", "name"), ("disable_stats", "true")];
        let columns = ("columns", "vhost,name,messages_ready,messages_unacknowledged");
        let query = [&query[..], &[("enable_queue_totals", "true"), columns]].concat();
        let answer: Value = found(self.get(&path, &query).await)?.unwrap_or_default();
        let totals = answer["items"].as_array().or(answer.as_array()).map(Vec::as_slice).unwrap_or_default();
        let totals: Totals = totals.iter().filter_map(Row::totals).collect();
        Ok(Some(Page { rows: rows.into_iter().map(|row| row.with_totals(&totals)).collect(), is_last }))
    }

    /// Ready and unacknowledged messages of queues by name, read from the queues themselves and not from the
    /// statistics.
    async fn totals(&self, vhost: &str, query: &[(&str, &str)]) -> Result<QueueTotals, Error> {
        let columns = ("columns", "name,messages_ready,messages_unacknowledged");
        let totals = [("disable_stats", "true"), ("enable_queue_totals", "true"), columns];
        let answer: Option<Value> = found(self.get(&["queues", vhost], &[query, &totals[..]].concat()).await)?;
        let answer = answer.unwrap_or_default();
        let rows = answer["items"].as_array().or(answer.as_array()).map(Vec::as_slice).unwrap_or_default();
        let number = |row: &Value, key: &str| row[key].as_u64().unwrap_or(0);
        let read = |row: &Value| {
            let messages = (number(row, "messages_ready"), number(row, "messages_unacknowledged"));
            Some((row["name"].as_str()?.to_owned(), messages))
        };
        Ok(rows.iter().filter_map(read).collect())
    }

    pub(super) async fn exchange(&self, vhost: &str, name: &str) -> Result<Option<ExchangeInfo>, Error> {
        self.row(&["exchanges", vhost, name], ExchangeInfo::COLUMNS, ExchangeInfo::read).await
    }

    /// As [`Self::queues`].
    pub(super) async fn exchanges(&self, vhost: &str, page: usize) -> Result<Option<Page<ExchangeInfo>>, Error> {
        self.page(&["exchanges", vhost], ExchangeInfo::COLUMNS, page, ExchangeInfo::read).await
    }

    /// All bindings of a vhost, or those from one exchange.
    pub(super) async fn bindings(&self, vhost: &str, from: Option<&str>) -> Result<Vec<BindingInfo>, Error> {
        let rows = match from {
            Some(exchange) => {
                self.rows(&["exchanges", vhost, exchange, "bindings", "source"], &[], BindingInfo::read).await
            }
            None => self.rows(&["bindings", vhost], &[], BindingInfo::read).await,
        };
        Ok(found(rows)?.unwrap_or_default())
    }

    /// Reads the current rows of a list; `read` returns `None` for those to leave out.
    pub(super) async fn current<T>(
        &self,
        vhost: &str,
        names: Names,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        let columns = if names == Names::Bindings { "source,destination" } else { "name" };
        // Statistics would only take time. A broker that does not support these parameters ignores them.
        let query = [("columns", columns), ("disable_stats", "true"), ("enable_queue_totals", "true")];
        Ok(found(self.rows(&[names.as_str(), vhost], &query, read).await)?.unwrap_or_default())
    }

    /// Messages in all queues of a vhost, and their body bytes; up to 5 s old.
    pub(super) async fn stored(&self, vhost: &str) -> Result<(u64, u64), Error> {
        let read = |row: &Value| Some((row["messages"].as_u64(), row["message_bytes"].as_u64()));
        let rows = found(self.rows(&["queues", vhost], &[("columns", "name,messages,message_bytes")], read).await)?;
        let rows = rows.unwrap_or_default();
        let bytes = rows.iter().filter_map(|(_, bytes)| *bytes).sum();
        if rows.iter().all(|(messages, _)| messages.is_some()) {
            return Ok((rows.iter().filter_map(|(messages, _)| *messages).sum(), bytes));
        }
        let totals = self.totals(vhost, &[]).await?;
        Ok((totals.values().map(|(ready, unacknowledged)| ready + unacknowledged).sum(), bytes))
    }

    async fn names(&self, path: &[&str]) -> Result<Vec<String>, Error> {
        self.rows(path, &[("columns", "name")], |row| row["name"].as_str().map(str::to_owned)).await
    }

    async fn row<T>(
        &self,
        path: &[&str],
        columns: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let row: Option<Value> = found(self.get(path, &[("columns", columns)]).await)?;
        Ok(row.as_ref().and_then(read))
    }

    /// A list; rows that cannot be read are omitted.
    async fn rows<T>(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        let rows: Vec<Value> = self.get(path, query).await?;
        Ok(rows.iter().filter_map(read).collect())
    }

    async fn page<T>(
        &self,
        path: &[&str],
        columns: &str,
        page: usize,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<Page<T>>, Error> {
        let (number, size) = (page.to_string(), PAGE.to_string());
        let query = [("page", number.as_str()), ("page_size", size.as_str()), ("sort", "name"), ("columns", columns)];
        let answer: Value = match found(self.get(path, &query).await) {
            Ok(Some(answer)) => answer,
            Ok(None) => return Ok(None),
            // Rows were deleted in the meantime, and this page with them.
            Err(Error::Answer(_)) if page > 1 => return Ok(None),
            Err(other) => return Err(other),
        };
        let items = answer["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        let pages = answer["page_count"].as_u64().unwrap_or(0);
        Ok(Some(Page {
            rows: items.iter().filter_map(read).collect(),
            is_last: items.is_empty() || page as u64 >= pages,
        }))
    }

    async fn get<T: DeserializeOwned>(&self, path: &[&str], query: &[(&str, &str)]) -> Result<T, Error> {
        let body = self.send(Method::GET, path, query, None, None).await?;
        serde_json::from_slice(&body).map_err(|error| Error::Answer(Cause::of(&error)))
    }

    async fn put(&self, path: &[&str], body: &impl Serialize) -> Result<(), Error> {
        let body = serde_json::to_value(body).map_err(|error| Error::Answer(Cause::of(&error)))?;
        self.send(Method::PUT, path, &[], Some(&body), None).await.map(drop)
    }

    async fn delete(&self, path: &[&str], reason: Option<&'static str>) -> Result<(), Error> {
        found(self.send(Method::DELETE, path, &[], None, reason).await).map(drop)
    }

    async fn send(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&Value>,
        reason: Option<&'static str>,
    ) -> Result<Answer, Error> {
        let body = body.map(|body| body.to_string().into_bytes());
        self.http.send(&Request { method, path, query, body, reason }).await
    }
}

/// Whether this version of RabbitMQ is older than 4.1. Returns true if the text cannot be parsed as a version.
fn is_before_4_1(version: &str) -> bool {
    let mut numbers = version.split('.').map_while(|number| number.parse::<u32>().ok());
    numbers.next().zip(numbers.next()).is_none_or(|version| version < (4, 1))
}

fn found<T>(answer: Result<T, Error>) -> Result<Option<T>, Error> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(Error::NotFound) => Ok(None),
        Err(other) => Err(other),
    }
}

impl User {
    pub(super) fn has_tags(&self) -> bool {
        match &self.tags {
            Tags::List(tags) => tags.iter().any(|tag| !tag.is_empty()),
            Tags::Text(tags) => !tags.is_empty(),
        }
    }

    pub(super) fn is_administrator(&self) -> bool {
        match &self.tags {
            Tags::List(tags) => tags.iter().any(|tag| tag == "administrator"),
            Tags::Text(tags) => tags.split(',').any(|tag| tag.trim() == "administrator"),
        }
    }
}

impl Default for Tags {
    fn default() -> Self {
        Self::List(Vec::new())
    }
}

impl Names {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Queues => "queues",
            Self::Exchanges => "exchanges",
            Self::Bindings => "bindings",
        }
    }
}

impl PolicyKind {
    const fn path(self) -> &'static str {
        match self {
            Self::Ordinary => "policies",
            Self::Operator => "operator-policies",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_start_late_before_4_1_and_when_the_version_is_unknown() {
        for (version, expected) in
            [("3.10.8", true), ("4.0.5", true), ("4.1.0-rc.1", false), ("4.3.6", false), ("5.0.0", false), ("", true)]
        {
            assert_eq!(is_before_4_1(version), expected, "{version:?}");
        }
    }

    #[test]
    fn a_users_tags_may_be_a_list_a_text_or_missing() {
        let user = |value: Value| User::deserialize(value).expect("a user");
        for (value, has_tags, is_administrator) in [
            (json!({"name": "a", "tags": []}), false, false),
            (json!({"name": "a", "tags": ""}), false, false),
            (json!({"name": "a"}), false, false),
            (json!({"name": "a", "tags": [""]}), false, false),
            (json!({"name": "a", "tags": ["monitoring", "administrator"]}), true, true),
            (json!({"name": "a", "tags": "monitoring, administrator"}), true, true),
            (json!({"name": "a", "tags": ["monitoring"]}), true, false),
        ] {
            let user = user(value.clone());
            assert_eq!((user.has_tags(), user.is_administrator()), (has_tags, is_administrator), "{value}");
        }
    }
}
