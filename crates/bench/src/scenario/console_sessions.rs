//! The cost of the web console: streams at full speed, alone and while people have pages with live figures open.

use std::net::SocketAddr;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{ScenarioReport, named};
use warrengate::{client, pb};

use crate::{
    Error,
    figures::Figure,
    job::Path,
    plan::{Plan, Scenario},
    process::free_address,
    rig::{Rig, names},
    rounds::{Setting, Shape, line, run},
};

/// A tenant may have this many live pages.
const PAGES: usize = 10;
const TENANTS: usize = 20;
/// Signing in costs as much as checking a secret, so few sign in at the same time.
const AT_ONCE: usize = 4;

pub(super) async fn measure(rig: &mut Rig, plan: &Plan) -> Result<ScenarioReport, Error> {
    let address = free_address()?;
    let setting = ("WARRENGATE_CONSOLE__LISTEN".to_owned(), address.to_string());
    let gateway = rig.another_gateway("console", &[setting]).await?;
    let mut people = Vec::new();
    for name in names("watched", TENANTS) {
        people.push(person(rig, &name).await?);
    }
    let cell = plan.first_cell();
    let setting = Setting { plan, cell: &cell, gateway: Some(&gateway), tenants: "bench", load: Shape::default() };
    let mut ratios = Vec::new();
    for round in 0..plan.rounds {
        let mut measured = [0.0; 2];
        for turn in 0..2 {
            // Which of both comes first changes from round to round.
            let is_watched = (round + turn) % 2 == 1;
            let sessions = if is_watched { open_pages(address, &people).await? } else { Vec::new() };
            let reading = tokio::spawn(futures_util::future::join_all(sessions.into_iter().map(read)));
            let run = Box::pin(run(rig, &setting, Path::Gateway, None, round)).await?;
            if is_watched && reading.is_finished() {
                return Err(Error::Gateway("the live pages ended during the measurement".to_owned()));
            }
            reading.abort();
            plan.say(&format!("{} {}", if is_watched { "watched" } else { "alone  " }, line(&run, plan.rounds)));
            measured[usize::from(is_watched)] = run.messages_per_second;
        }
        ratios.push(measured[1] / measured[0]);
    }
    gateway.end().await?;
    let number = TENANTS * PAGES;
    let figures = named([("throughput with 200 live pages of the console ÷ alone", "", Figure::of(ratios), "≥ 0.97")]);
    let description =
        format!("{}, alone and with {number} sessions of {TENANTS} tenants that watch live figures", cell.title());
    Ok(ScenarioReport { scenario: Scenario::ConsoleSessions, description, figures })
}

/// A tenant's client that may see live figures.
async fn person(rig: &Rig, tenant: &str) -> Result<(String, SecretString), Error> {
    let mut admin = rig.admin().admin();
    let created = pb::Tenant { id: tenant.to_owned(), ..pb::Tenant::default() };
    let request = pb::CreateTenantRequest { tenant: Some(created), ..pb::CreateTenantRequest::default() };
    admin.create_tenant(request).await.map_err(client::Error::from)?;
    let id = format!("{tenant}.person");
    let grants = pb::Grants { observe: true, subscribe: vec!["#".to_owned()], ..pb::Grants::default() };
    let created = pb::Client { client_id: id.clone(), grants: Some(grants), ..pb::Client::default() };
    let request = pb::CreateClientRequest { client: Some(created), ..pb::CreateClientRequest::default() };
    let answer = admin.create_client(request).await.map_err(client::Error::from)?.into_inner();
    Ok((id, answer.client_secret.into()))
}

/// Signs in all sessions, and opens the stream of live figures of each.
async fn open_pages(address: SocketAddr, people: &[(String, SecretString)]) -> Result<Vec<TcpStream>, Error> {
    let all = people.iter().flat_map(|person| std::iter::repeat_n(person, PAGES));
    stream::iter(all.map(|(id, secret)| open_page(address, id, secret))).buffered(AT_ONCE).try_collect().await
}

async fn open_page(address: SocketAddr, id: &str, secret: &SecretString) -> Result<TcpStream, Error> {
    let form = exchange(address, "GET /sign-in", "", None).await?;
    let csrf = between(&form, "name=\"csrf\" value=\"", "\"")?.to_owned();
    let fields = format!("csrf={csrf}&client_id={id}&client_secret={}", secret.expose_secret());
    let signed_in = exchange(address, "POST /sign-in", &cookies(&form), Some(&fields)).await?;
    let session = cookies(&signed_in);
    let page = exchange(address, "GET /", &session, None).await?;
    between(&page, "data-live=\"", "\"")?;
    let mut stream = connect(address, "GET /live", &session, None).await?;
    let mut first = [0; 12];
    stream.read_exact(&mut first).await.map_err(Error::Pipe)?;
    if &first != b"HTTP/1.1 200" {
        return Err(Error::Gateway(format!("the live figures: {}", String::from_utf8_lossy(&first))));
    }
    Ok(stream)
}

/// Reads until the gateway closes the connection.
async fn read(mut stream: TcpStream) {
    let mut buffer = vec![0; 4096];
    while stream.read(&mut buffer).await.is_ok_and(|length| length > 0) {}
}

async fn connect(address: SocketAddr, what: &str, cookies: &str, form: Option<&str>) -> Result<TcpStream, Error> {
    let mut stream = TcpStream::connect(address).await.map_err(Error::Pipe)?;
    let form = form.unwrap_or_default();
    let request = format!(
        "{what} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nSec-Fetch-Site: same-origin\r\nCookie: {cookies}\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
        form.len()
    );
    stream.write_all(request.as_bytes()).await.map_err(Error::Pipe)?;
    Ok(stream)
}

/// A request with its whole answer, headers included.
async fn exchange(address: SocketAddr, what: &str, cookies: &str, form: Option<&str>) -> Result<String, Error> {
    let mut answer = Vec::new();
    let mut stream = connect(address, what, cookies, form).await?;
    stream.read_to_end(&mut answer).await.map_err(Error::Pipe)?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    match answer.starts_with("HTTP/1.1 2") || answer.starts_with("HTTP/1.1 303") {
        true => Ok(answer),
        false => Err(Error::Gateway(format!("{what}: {}", answer.lines().next().unwrap_or_default()))),
    }
}

/// The cookies that an answer sets.
fn cookies(answer: &str) -> String {
    let set = answer.lines().filter_map(|line| line.strip_prefix("set-cookie: ")?.split(';').next());
    set.filter(|pair| !pair.ends_with('=')).collect::<Vec<_>>().join("; ")
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> Result<&'a str, Error> {
    let found = text.split_once(start).and_then(|(_, rest)| rest.split_once(end));
    found.map(|(found, _)| found).ok_or_else(|| Error::Gateway(format!("a page of the console has no {start}")))
}
