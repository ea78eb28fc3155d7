//! `warrengate chat` with real processes, on one gateway or two, within one tenant or two.

use std::process::Stdio;

use tokio::{
    io::{AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout},
};

use crate::harness::{
    Tenant,
    command::{lines, warrengate},
    wait::within,
    web,
};

/// A participant at a terminal.
struct Person {
    process: Child,
    keyboard: ChildStdin,
    screen: Lines<BufReader<ChildStdout>>,
}

impl Person {
    fn enter(tenant: &Tenant, name: &str, endpoint: Option<&str>) -> Self {
        let mut command = warrengate(&tenant.client_id, &tenant.secret);
        command.args(["chat", "lobby", "--as", name]).stdin(Stdio::piped()).stderr(Stdio::inherit());
        if let Some(endpoint) = endpoint {
            command.env("WARRENGATE_ENDPOINT", endpoint);
        }
        let mut process = command.spawn().unwrap();
        let (keyboard, screen) = (process.stdin.take().unwrap(), lines(&mut process));
        Self { process, keyboard, screen }
    }

    async fn types(&mut self, line: &str) {
        self.keyboard.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    /// Expects this line on the screen, ignoring the clock of messages.
    async fn sees(&mut self, expected: &str) {
        let line = within(expected, self.screen.next_line()).await.unwrap().expect("the chat continues");
        let clock = line.as_bytes().get(2) == Some(&b':');
        assert_eq!(if clock { &line[6..] } else { &line }, expected);
    }

    async fn leaves(self) {
        let Self { mut process, keyboard, .. } = self;
        drop(keyboard);
        assert!(within("the chat to end", process.wait()).await.unwrap().success());
    }
}

#[tokio::test]
async fn participants_see_joins_messages_and_departures_and_a_late_one_reads_the_history() {
    let tenant = Tenant::fresh().await;
    let mut ann = Person::enter(&tenant, "ann", None);
    ann.sees("-- here: ann").await;
    let mut ben = Person::enter(&tenant, "ben", None);
    ben.sees("-- here: ann, ben").await;
    ann.sees("-- ben joined").await;
    ann.types("hello ben").await;
    ben.sees("ann: hello ben").await;
    ben.types("hello \u{1b}[31mann").await;
    ann.sees("ben: hello \u{1b}[31mann").await;
    ben.leaves().await;
    ann.sees("-- ben left").await;
    let mut carla = Person::enter(&tenant, "carla", None);
    // The messages and the list of participants come through two streams, in no fixed order.
    let mut seen = Vec::new();
    for _ in 0..3 {
        let line = within("a line", carla.screen.next_line()).await.unwrap().expect("the chat continues");
        seen.push(line.split_once(' ').unwrap().1.to_owned());
    }
    seen.sort_unstable();
    assert_eq!(seen, ["ann: hello ben", "ben: hello \u{1b}[31mann", "here: ann, carla"]);
    ann.sees("-- carla joined").await;
    ann.types("/who").await;
    ann.sees("-- here: ann, carla").await;
    ann.leaves().await;
    carla.sees("-- ann left").await;
    carla.leaves().await;
}

#[tokio::test]
async fn two_gateways_share_a_chat_room() {
    let tenant = Tenant::fresh().await;
    let other = web::gateway(|_| {}).await;
    let mut ann = Person::enter(&tenant, "ann", None);
    ann.sees("-- here: ann").await;
    let mut ben = Person::enter(&tenant, "ben", Some(&other.endpoint()));
    ben.sees("-- here: ann, ben").await;
    ann.sees("-- ben joined").await;
    ben.types("from the other gateway").await;
    ann.sees("ben: from the other gateway").await;
    ann.types("received").await;
    ben.sees("ann: received").await;
    ben.leaves().await;
    ann.leaves().await;
    other.running.shutdown().await;
}

#[tokio::test]
async fn chat_rooms_of_two_tenants_with_the_same_name_are_separate() {
    let (acme, globex) = (Tenant::fresh().await, Tenant::fresh().await);
    let mut ann = Person::enter(&acme, "ann", None);
    ann.sees("-- here: ann").await;
    ann.types("a message in acme").await;
    let mut eve = Person::enter(&globex, "eve", None);
    eve.sees("-- here: eve").await;
    eve.types("a message in globex").await;
    let mut finn = Person::enter(&globex, "finn", None);
    let mut seen = Vec::new();
    for _ in 0..2 {
        let line = within("a line", finn.screen.next_line()).await.unwrap().expect("the chat continues");
        seen.push(line.split_once(' ').unwrap().1.to_owned());
    }
    seen.sort_unstable();
    assert_eq!(seen, ["eve: a message in globex", "here: eve, finn"]);
    eve.sees("-- finn joined").await;
    // A message from the other tenant would be the next line.
    ann.types("/who").await;
    ann.sees("-- here: ann").await;
    for person in [ann, eve, finn] {
        person.leaves().await;
    }
}
