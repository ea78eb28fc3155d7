//! Shell completions and man pages, generated from the definition of the command line.

use std::{io::Write as _, path::PathBuf};

use super::Error;

const EXAMPLES: &str = "\
Examples:
  warrengate completions bash
  warrengate completions zsh

In ~/.bashrc: source <(warrengate completions bash)";

/// The flags of `completions`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

/// The flags of `man`.
#[derive(Debug, clap::Args)]
pub(super) struct ManArgs {
    /// The folder, which is created
    #[arg(long, value_name = "DIR", default_value = "man")]
    dir: PathBuf,
}

pub(super) fn run(args: Args, mut command: clap::Command) -> Result<(), Error> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, env!("CARGO_PKG_NAME"), &mut script);
    std::io::stdout().lock().write_all(&script).map_err(Error::Output)
}

pub(super) fn man(args: ManArgs, command: clap::Command) -> Result<(), Error> {
    let failed = || Error::io(format!("cannot write man pages to {}", args.dir.display()));
    std::fs::create_dir_all(&args.dir).map_err(failed())?;
    clap_mangen::generate_to(command, &args.dir).map_err(failed())
}
