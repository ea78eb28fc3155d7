//! `warrengate chat`: a chat room for people of one tenant.
//!
//! A room is two stream queues of the tenant (docs/guides/chat.md), so rooms of the same name of two tenants are
//! separate.

mod input;
mod room;
mod roster;

use std::time::{Duration, SystemTime};

use serde_json::json;
use tokio::time::Instant;

use self::{
    input::Input,
    room::{ChatMessage, Presence, Room},
    roster::Roster,
};
use super::{
    Error, Output,
    connection::{ConnectionArgs, DATA},
    signals::Signals,
    values,
};
use crate::client::{Event, Subscription};

const EXAMPLES: &str = "\
Examples:
  warrengate chat lobby --as ann                     in one terminal
  warrengate chat lobby --as ben                     and in another
  warrengate chat lobby --as eve --identity globex   a separate room of another tenant
  warrengate chat lobby --as ann --history 10m       with the messages of the last ten minutes

Enter sends a line; /who lists who is present; /help explains; /quit, Ctrl-D or Ctrl-C leaves.";

const HELP: &str = "/who lists who is present, /quit leaves, //text sends a line that starts with a slash";

/// How long after their last presence message people count as present.
const STALE: Duration = Duration::from_secs(45);
/// The interval of presence messages.
const PRESENCE_INTERVAL: Duration = Duration::from_secs(15);

/// The flags of `chat`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[command(mut_arg("identity", |argument| argument.long("identity")))]
pub(super) struct Args {
    /// The room: 1 to 64 letters, digits, "-" and "_"
    #[arg(value_parser = room::room_name)]
    room: String,
    /// Your name in the room, up to 32 characters
    #[arg(long = "as", value_name = "NAME", value_parser = room::person_name)]
    name: String,
    /// How much of the history to show
    #[arg(long, value_name = "TIME", value_parser = values::duration, default_value = "1day")]
    history: Duration,
    #[command(flatten)]
    connection: ConnectionArgs,
}

pub(super) async fn run(args: Args, output: &Output) -> Result<(), Error> {
    let client = args.connection.connect(DATA).await?;
    let room = Room::enter(client, &args.room, &args.name).await?;
    let since = SystemTime::now().checked_sub(args.history).unwrap_or(SystemTime::UNIX_EPOCH);
    let mut conversation = room.conversation(since).await?;
    let mut presence = room.presence(SystemTime::now() - STALE).await?;
    let input = Input::open(!output.is_json());
    if matches!(input, Input::Terminal(_)) {
        output.note(&format!("Enter sends a line. {HELP}."));
    }
    let mut chat = Chat { room, roster: Roster::default(), entered: false, input, output };
    let stayed = chat.run_until_quit(&mut conversation, &mut presence).await;
    chat.room.leave().await;
    let (conversation, presence) = (conversation.close().await, presence.close().await);
    stayed?;
    conversation?;
    Ok(presence?)
}

struct Chat<'a> {
    room: Room,
    roster: Roster,
    /// Whether earlier presence messages are known, because this session's own message has been received.
    entered: bool,
    input: Input,
    output: &'a Output,
}

impl Chat<'_> {
    /// Runs until the person leaves.
    async fn run_until_quit(
        &mut self,
        conversation: &mut Subscription,
        presence: &mut Subscription,
    ) -> Result<(), Error> {
        let mut signals = Signals::listen()?;
        let mut beat = tokio::time::interval(PRESENCE_INTERVAL);
        loop {
            tokio::select! {
                line = self.input.next() => match line.as_deref().map(str::trim_end) {
                    None | Some("/quit") => return Ok(()),
                    Some("") => {}
                    Some("/who") => self.who()?,
                    Some("/help") => self.note(HELP),
                    Some(text) if text.starts_with('/') && !text.starts_with("//") => {
                        self.note(&format!("unknown command {text:?}. {HELP}"));
                    }
                    // Two slashes send a line that starts with one.
                    Some(text) => self.room.say(text.strip_prefix('/').unwrap_or(text)).await?,
                },
                event = conversation.next_event() => match event? {
                    Some(Event::Delivery(delivery)) => {
                        conversation.ack(&delivery)?;
                        if let Some(message) = ChatMessage::of(&delivery) && !self.room.is_own(&message.session) {
                            self.print(&message)?;
                        }
                    }
                    Some(Event::Interrupted { reason }) => self.note(&format!("interrupted: {reason}")),
                    Some(Event::Resumed) => self.note("resumed"),
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
                    self.room.announce_presence().await?;
                    for name in self.roster.silent(Instant::now()) {
                        self.announce("left", &name, "timed out")?;
                    }
                }
                next_failure = self.room.next_failure() => self.note(&next_failure),
                () = signals.next() => return Ok(()),
            }
        }
    }

    fn changed(&mut self, change: Presence) -> Result<(), Error> {
        let Presence { session, name, age, is_here } = change;
        let own = self.room.is_own(&session);
        if !is_here {
            return match self.roster.left(&session) {
                Some(name) if self.entered && !own => self.announce("left", &name, "left"),
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
            (false, true) if is_new => self.announce("came", &name, "joined"),
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

    fn announce(&self, event: &str, name: &str, words: &str) -> Result<(), Error> {
        if self.output.is_json() {
            return self.output.line(&json!({"event": event, "name": name}).to_string());
        }
        self.line(&format!("-- {name} {words}"))
    }

    fn print(&self, message: &ChatMessage) -> Result<(), Error> {
        if self.output.is_json() {
            let ChatMessage { name, text, time, .. } = message;
            return self
                .output
                .line(&json!({"event": "message", "name": name, "text": text, "time": time}).to_string());
        }
        // 2026-11-21T12:03:04Z
        let has_clock = message.time.as_bytes().get(10) == Some(&b'T');
        let clock = message.time.get(11..16).filter(|_| has_clock).unwrap_or("--:--");
        self.line(&format!("{clock} {}: {}", message.name, message.text))
    }

    /// Messages of others are printed as one line each.
    fn line(&self, text: &str) -> Result<(), Error> {
        self.input.above(|| self.output.line(&self.output.safe(&text.replace(['\n', '\r'], " "))))
    }

    fn note(&self, text: &str) {
        self.input.above(|| self.output.note(text));
    }
}
