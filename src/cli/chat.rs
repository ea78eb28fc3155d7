//! `warrengate chat`: a room for people of one tenant. Lines of standard input enter as messages, others' messages leave as
//! lines, with who comes and goes. The room is two stream queues that anyone may read (docs/guides/chat.md); two tenants'
//! rooms of one name are two rooms, because their queues are.

mod room;
mod roster;

use std::{
    io::BufRead as _,
    time::{Duration, SystemTime},
};

use serde_json::json;
use tokio::{sync::mpsc, time::Instant};

use self::{
    room::{Presence, Room, Said},
    roster::Roster,
};
use super::{
    Error, Output,
    connection::{ConnectionArgs, DATA},
    values,
};
use crate::client::{Event, Subscription};

const EXAMPLES: &str = "\
Examples:
  warrengate chat lobby --as ann                     in one terminal
  warrengate chat lobby --as ben                     and in another
  warrengate chat lobby --as eve --identity globex   another tenant's room of the same name: nobody is there
  warrengate chat lobby --as ann --history 10m       with what was said in the last ten minutes

Type a line and Enter; /who lists who is here; /quit, Ctrl-D or Ctrl-C leaves.";

/// How long one whose process vanished is still thought to be here.
const STALE: Duration = Duration::from_secs(45);
/// How often everybody says that they are here.
const BEAT: Duration = Duration::from_secs(15);

/// The flags of `chat`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[command(mut_arg("identity", |argument| argument.long("identity")))]
pub(super) struct Args {
    /// The room: 1 to 64 letters, digits, "-" and "_"
    #[arg(value_parser = room::room_name)]
    room: String,
    /// What others shall call you, up to 32 characters
    #[arg(long = "as", value_name = "NAME", value_parser = room::person_name)]
    name: String,
    /// How far back to show what was said
    #[arg(long, value_name = "TIME", value_parser = values::duration, default_value = "1day")]
    history: Duration,
    #[command(flatten)]
    connection: ConnectionArgs,
}

pub(super) async fn run(args: Args, output: &Output) -> Result<(), Error> {
    let client = args.connection.connect(DATA).await?;
    let room = Room::enter(client, &args.room, &args.name).await?;
    let since = SystemTime::now().checked_sub(args.history).unwrap_or(SystemTime::UNIX_EPOCH);
    let mut talk = room.talk(since).await?;
    let mut presence = room.presence(SystemTime::now() - STALE).await?;
    let mut chat = Chat { room, roster: Roster::default(), entered: false, output };
    let stayed = chat.stay(&mut talk, &mut presence).await;
    chat.room.leave().await;
    let (talk, presence) = (talk.close().await, presence.close().await);
    stayed?;
    talk?;
    Ok(presence?)
}

struct Chat<'a> {
    room: Room,
    roster: Roster,
    /// Whether who was here before us is known: our own coming has come back to us.
    entered: bool,
    output: &'a Output,
}

impl Chat<'_> {
    /// Until the person leaves.
    async fn stay(&mut self, talk: &mut Subscription, presence: &mut Subscription) -> Result<(), Error> {
        let mut lines = typed();
        let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
        let mut beat = tokio::time::interval(BEAT);
        loop {
            tokio::select! {
                line = lines.recv() => match line.as_deref().map(str::trim_end) {
                    None | Some("/quit") => return Ok(()),
                    Some("") => {}
                    Some("/who") => self.who()?,
                    Some(text) => self.room.say(text).await?,
                },
                event = talk.next_event() => match event? {
                    Some(Event::Delivery(delivery)) => {
                        talk.ack(&delivery)?;
                        if let Some(said) = Said::of(&delivery) && !self.room.is_own(&said.session) {
                            self.said(&said)?;
                        }
                    }
                    Some(Event::Interrupted { reason }) => self.output.note(&format!("interrupted: {reason}")),
                    Some(Event::Resumed) => self.output.note("resumed"),
                    Some(_) => {}
                    None => return Ok(()),
                },
                event = presence.next_event() => match event? {
                    Some(Event::Delivery(delivery)) => {
                        presence.ack(&delivery)?;
                        if let Some(change) = Presence::of(&delivery) {
                            self.changed(change)?;
                        }
                    }
                    Some(_) => {}
                    None => return Ok(()),
                },
                _ = beat.tick() => {
                    self.room.is_here().await?;
                    for name in self.roster.silent(Instant::now()) {
                        self.told("left", &name, "fell silent")?;
                    }
                }
                trouble = self.room.trouble() => self.output.note(&trouble),
                _ = &mut interrupt => return Ok(()),
            }
        }
    }

    fn changed(&mut self, change: Presence) -> Result<(), Error> {
        let Presence { session, name, age, is_here } = change;
        let own = self.room.is_own(&session);
        if !is_here {
            return match self.roster.left(&session) {
                Some(name) if self.entered && !own => self.told("left", &name, "left"),
                _ => Ok(()),
            };
        }
        let until = Instant::now() + STALE.saturating_sub(age);
        let is_new = self.roster.here(session, name.clone(), until);
        match (own, self.entered) {
            (true, false) => {
                self.entered = true;
                self.who()
            }
            (false, true) if is_new => self.told("came", &name, "came"),
            _ => Ok(()),
        }
    }

    fn who(&self) -> Result<(), Error> {
        let names = self.roster.names(Instant::now());
        if self.output.is_json() {
            return self.output.line(&json!({"event": "here", "names": names}).to_string());
        }
        self.line(&format!("-- here: {}", names.join(", ")))
    }

    fn told(&self, event: &str, name: &str, words: &str) -> Result<(), Error> {
        if self.output.is_json() {
            return self.output.line(&json!({"event": event, "name": name}).to_string());
        }
        self.line(&format!("-- {name} {words}"))
    }

    fn said(&self, said: &Said) -> Result<(), Error> {
        if self.output.is_json() {
            let Said { name, text, time, .. } = said;
            return self
                .output
                .line(&json!({"event": "message", "name": name, "text": text, "time": time}).to_string());
        }
        // 2026-11-21T12:03:04Z
        let clock = said.time.get(11..16).unwrap_or("--:--");
        self.line(&format!("{clock} {}: {}", said.name, said.text))
    }

    /// What others wrote is one line, whatever they put into it.
    fn line(&self, text: &str) -> Result<(), Error> {
        self.output.line(&self.output.safe(&text.replace(['\n', '\r'], " ")))
    }
}

/// Lines of standard input, to its end. A thread of its own, which the process does not wait for: a terminal's reading cannot be
/// called off.
fn typed() -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel(16);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            if sender.blocking_send(line).is_err() {
                break;
            }
        }
    });
    lines
}
