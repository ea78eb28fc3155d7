//! The command line.
//!
//! Results go to standard output, as text or as JSON with `--json`; everything else goes to standard error. Secrets are
//! printed only by commands whose purpose is to show them. Exit codes: success 0, failure 1, wrong usage 2.

mod audit;
mod binding;
mod certs;
#[cfg(feature = "dev")]
mod chat;
mod client;
mod completions;
mod connection;
mod dead_letter;
#[cfg(feature = "dev")]
mod demo;
#[cfg(feature = "dev")]
mod dev;
mod dev_env;
mod doctor;
mod error;
mod exchange;
mod grants;
mod json;
mod key;
mod output;
mod plan;
mod publish;
mod queue;
mod ready;
mod serve;
mod signals;
mod status;
mod stdout;
mod stream;
mod subscribe;
mod tenant;
mod token;
mod token_cache;
mod trace;
mod values;

pub use error::Error;
pub use output::Output;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  warrengate dev                                   a gateway with a private broker and two demonstration tenants
  warrengate queue declare orders                  a queue of the tenant acme
  warrengate publish --queue orders 'one order'    publish a message, and wait for its confirm
  warrengate subscribe orders --count 1            receive it
  warrengate subscribe orders --as globex          another tenant has no such queue

Settings come from flags, then from the environment (WARRENGATE_ENDPOINT, WARRENGATE_CA, WARRENGATE_CLIENT_ID,
WARRENGATE_CLIENT_SECRET, WARRENGATE_TOKEN), then from .warrengate/dev.env in the working directory.
Exit codes: 0 success, 1 failure, 2 wrong usage. With --json, errors are JSON on standard error.";

#[derive(Debug, Parser)]
#[command(name = "warrengate", version, about = "A secured multi-tenant messaging gateway", after_help = EXAMPLES)]
#[command(arg_required_else_help = true, infer_subcommands = false)]
struct Arguments {
    /// Print results and errors as JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway
    Serve(serve::Args),
    /// Run a gateway with a private broker and two demonstration tenants, with nothing to configure
    #[cfg(feature = "dev")]
    Dev(dev::Args),
    /// Create, renew and show certificates
    Certs(certs::Args),
    /// Check configuration, certificates, broker and store, and suggest fixes
    Doctor(doctor::Args),
    /// Check whether a gateway is ready, for health checks
    Ready(ready::Args),
    /// Create and manage tenants
    Tenant(tenant::Args),
    /// Create and manage clients, the applications that may get tokens
    Client(client::Args),
    /// Create and manage plans, the limits of tenants
    Plan(plan::Args),
    /// Rotate the keys that sign tokens
    Key(key::Args),
    /// Show the state of a gateway, the broker, the store and the certificates
    Status(status::Args),
    /// Show and close open streams
    Stream(stream::Args),
    /// Show the audit trail: administrative operations and refused calls
    Audit(audit::Args),
    /// Get a token, or show the identity and grants of the current one
    Token(token::Args),
    /// Show a message's trace, by trace id or message id
    Trace(trace::Args),
    /// Publish messages
    Publish(publish::Args),
    /// Consume a queue and print its messages
    Subscribe(subscribe::Args),
    /// Create, inspect and manage queues
    Queue(queue::Args),
    /// List, redrive and delete dead letters
    DeadLetter(dead_letter::Args),
    /// Create and manage exchanges
    Exchange(exchange::Args),
    /// Create and manage bindings
    Binding(binding::Args),
    /// Chat with other people of the tenant in a chat room
    #[cfg(feature = "dev")]
    Chat(chat::Args),
    /// Run short demos of common messaging patterns
    #[cfg(feature = "dev")]
    Demo(demo::Args),
    /// Print a completion script for a shell
    Completions(completions::Args),
    /// Write a man page for each command into a folder
    #[command(hide = true)]
    Man(completions::ManArgs),
}

/// Runs the command that the process was started with.
pub async fn run() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let code = u8::try_from(error.exit_code()).unwrap_or(error::USAGE);
            if code == error::USAGE && std::env::args_os().any(|argument| argument == "--json") {
                Output::new(true).error(&Error::Usage(error.to_string()));
            } else {
                // Help and version are errors to clap, with an exit code of 0. A closed pipe is not a failure.
                let _ = error.print();
            }
            return ExitCode::from(code);
        }
    };
    let output = Output::new(arguments.json);
    match dispatch(arguments.command, &output).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !error.is_closed_pipe() {
                output.error(&error);
                token_cache::forget();
            }
            ExitCode::from(error.exit_code())
        }
    }
}

/// Reports that the runtime could not be started.
pub fn not_started(source: std::io::Error) -> ExitCode {
    let error = Error::Io { what: "cannot start the threads of the runtime".into(), source };
    Output::new(false).error(&error);
    ExitCode::from(error.exit_code())
}

async fn dispatch(command: Command, output: &Output) -> Result<(), Error> {
    // Boxed, because the largest command would otherwise set the size of all.
    match command {
        Command::Serve(args) => Box::pin(serve::run(args, output)).await,
        #[cfg(feature = "dev")]
        Command::Dev(args) => Box::pin(dev::run(args, output)).await,
        Command::Certs(args) => Box::pin(certs::run(args, output)).await,
        Command::Doctor(args) => Box::pin(doctor::run(args, output)).await,
        Command::Ready(args) => Box::pin(ready::run(args, output)).await,
        Command::Tenant(args) => Box::pin(tenant::run(args, output)).await,
        Command::Client(args) => Box::pin(client::run(args, output)).await,
        Command::Plan(args) => Box::pin(plan::run(args, output)).await,
        Command::Key(args) => Box::pin(key::run(args, output)).await,
        Command::Status(args) => Box::pin(status::run(args, output)).await,
        Command::Stream(args) => Box::pin(stream::run(args, output)).await,
        Command::Audit(args) => Box::pin(audit::run(args, output)).await,
        Command::Token(args) => Box::pin(token::run(args, output)).await,
        Command::Trace(args) => Box::pin(trace::run(args, output)).await,
        Command::Publish(args) => Box::pin(publish::run(args, output)).await,
        Command::Subscribe(args) => Box::pin(subscribe::run(args, output)).await,
        Command::Queue(args) => Box::pin(queue::run(args, output)).await,
        Command::DeadLetter(args) => Box::pin(dead_letter::run(args, output)).await,
        Command::Exchange(args) => Box::pin(exchange::run(args, output)).await,
        Command::Binding(args) => Box::pin(binding::run(args, output)).await,
        #[cfg(feature = "dev")]
        Command::Chat(args) => Box::pin(chat::run(args, output)).await,
        #[cfg(feature = "dev")]
        Command::Demo(args) => Box::pin(demo::run(args, output)).await,
        Command::Completions(args) => completions::run(args, Arguments::command()),
        Command::Man(args) => completions::man(args, Arguments::command()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_well_formed_and_explained() {
        fn check(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{} has no explanation", command.get_name());
            for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
                assert!(argument.get_help().is_some(), "{} {} has no help", command.get_name(), argument.get_id());
            }
            command.get_subcommands().for_each(check);
        }
        Arguments::command().debug_assert();
        check(&Arguments::command());
    }

    #[test]
    fn the_examples_of_every_help_are_commands() {
        fn examples(command: &clap::Command) -> Vec<String> {
            let own = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let own = own.lines().filter_map(|line| line.trim().strip_prefix("warrengate ")).map(str::to_owned);
            own.chain(command.get_subcommands().flat_map(examples)).collect()
        }
        let all = examples(&Arguments::command());
        assert!(all.len() > 20, "only {} examples", all.len());
        for example in all {
            // Two spaces separate a command from its explanation.
            let line = example.split("  ").next().unwrap_or_default();
            let words = line.split_whitespace().map(|word| word.trim_matches('\'').to_owned());
            let words: Vec<String> = std::iter::once("warrengate".to_owned()).chain(words).collect();
            // The split above breaks quoted text with spaces, which is always the last argument.
            let quoted = line.split_once('\'').map(|(before, _)| before.split_whitespace().count() + 2);
            let words = &words[..quoted.unwrap_or(words.len()).min(words.len())];
            if let Err(error) = Arguments::try_parse_from(words) {
                panic!("{line}: {error}");
            }
        }
    }
}
