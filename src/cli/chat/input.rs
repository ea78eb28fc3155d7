//! What a person types. A terminal passes on every key without showing it, so that the line being typed can be removed
//! while another one is printed, and shown again below it. Other input is read by lines.

use std::{
    collections::VecDeque,
    io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _},
};

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use tokio::sync::mpsc;

/// Moves to the beginning of the terminal's line, and clears it.
const CLEAR: &str = "\r\u{1b}[K";
/// The width of a terminal that does not report its own.
const WIDTH: usize = 80;

/// The lines that a person enters.
pub(super) enum Input {
    Lines(mpsc::Receiver<String>),
    Terminal(Box<Terminal>),
}

impl Input {
    /// Standard input; by keys if it is a terminal and `interactive`.
    pub(super) fn open(interactive: bool) -> Self {
        let is_terminal = interactive && io::stdin().is_terminal() && io::stdout().is_terminal();
        match is_terminal.then(TerminalMode::of_keys) {
            Some(Ok(mode)) => Self::Terminal(Box::new(Terminal {
                keys: read_keys(),
                line: Line::default(),
                entered: VecDeque::new(),
                _mode: mode,
            })),
            _ => Self::Lines(read_lines()),
        }
    }

    /// The next line; `None` at the end. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<String> {
        match self {
            Self::Lines(lines) => lines.recv().await,
            Self::Terminal(terminal) => terminal.next().await,
        }
    }

    /// Prints something above the line that is being typed.
    pub(super) fn above<T>(&self, print: impl FnOnce() -> T) -> T {
        let Self::Terminal(terminal) = self else { return print() };
        write(CLEAR);
        let printed = print();
        write(&terminal.line.shown(width()));
        printed
    }
}

/// A terminal and the line that is being typed.
pub(super) struct Terminal {
    keys: mpsc::Receiver<Vec<u8>>,
    line: Line,
    entered: VecDeque<Option<String>>,
    _mode: TerminalMode,
}

impl Terminal {
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(entered) = self.entered.pop_front() {
                return entered;
            }
            let bytes = self.keys.recv().await?;
            for byte in bytes {
                match self.line.take(byte) {
                    None => {}
                    Some(Entered::Line(text)) => {
                        write(&format!("{CLEAR}{text}\n"));
                        self.entered.push_back(Some(text));
                    }
                    Some(Entered::End) => self.entered.push_back(None),
                }
            }
            write(&format!("{CLEAR}{}", self.line.shown(width())));
        }
    }
}

/// Keys are passed on one by one and are not shown, until this is dropped. Ctrl-C remains a signal.
struct TerminalMode(Termios);

impl TerminalMode {
    fn of_keys() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut mode = before.clone();
        mode.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO | LocalModes::IEXTEN);
        mode.special_codes[SpecialCodeIndex::VMIN] = 1;
        mode.special_codes[SpecialCodeIndex::VTIME] = 0;
        // A stopped process would leave the terminal in this mode.
        mode.special_codes[SpecialCodeIndex::VSUSP] = 0;
        tcsetattr(io::stdin(), OptionalActions::Now, &mode)?;
        Ok(Self(before))
    }
}

impl Drop for TerminalMode {
    fn drop(&mut self) {
        write(CLEAR);
        // Nothing can be done when the terminal is gone.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// What a key completes.
#[derive(Debug, PartialEq, Eq)]
enum Entered {
    Line(String),
    End,
}

/// The line that is being typed.
#[derive(Debug, Default)]
struct Line {
    text: String,
    /// The beginning of a character.
    character: Vec<u8>,
    escape: Escape,
}

/// The state of a sequence such as that of an arrow key, which has no effect.
#[derive(Debug, Default, PartialEq, Eq)]
enum Escape {
    #[default]
    None,
    Begun,
    Sequence,
}

impl Line {
    fn take(&mut self, byte: u8) -> Option<Entered> {
        match std::mem::take(&mut self.escape) {
            Escape::Begun if matches!(byte, b'[' | b'O') => self.escape = Escape::Sequence,
            Escape::Begun => {}
            // Parameters precede the last byte.
            Escape::Sequence if !matches!(byte, 0x40..=0x7E) => self.escape = Escape::Sequence,
            Escape::Sequence => {}
            Escape::None => return self.key(byte),
        }
        None
    }

    fn key(&mut self, byte: u8) -> Option<Entered> {
        match byte {
            0x1B => self.escape = Escape::Begun,
            b'\n' | b'\r' => return Some(Entered::Line(std::mem::take(&mut self.text))),
            // Ctrl-D
            0x04 if self.text.is_empty() => return Some(Entered::End),
            // Backspace
            0x7F | 0x08 => drop(self.text.pop()),
            // Ctrl-U
            0x15 => self.text.clear(),
            // Ctrl-W
            0x17 => {
                let rest = self.text.trim_end().trim_end_matches(|c: char| !c.is_whitespace()).len();
                self.text.truncate(rest);
            }
            b'\t' => self.text.push(' '),
            _ if byte.is_ascii_control() => {}
            _ => self.part_of_character(byte),
        }
        None
    }

    fn part_of_character(&mut self, byte: u8) {
        self.character.push(byte);
        match std::str::from_utf8(&self.character) {
            Ok(character) => self.text.push_str(character),
            // The rest follows.
            Err(error) if error.error_len().is_none() => return,
            Err(_) => {}
        }
        self.character.clear();
    }

    /// The end of the line that fits into this many columns: a longer one would wrap and could not be cleared.
    fn shown(&self, width: usize) -> String {
        // Some characters have two columns.
        let mut columns = 0;
        let fits = |c: &char| {
            columns += if c.is_ascii() { 1 } else { 2 };
            columns < width
        };
        let mut shown: Vec<_> = self.text.chars().rev().filter(|c| !c.is_control()).take_while(fits).collect();
        shown.reverse();
        shown.into_iter().collect()
    }
}

fn width() -> usize {
    terminal_size::terminal_size_of(io::stdout()).map_or(WIDTH, |(terminal_size::Width(width), _)| width.into())
}

fn write(text: &str) {
    let mut stdout = io::stdout().lock();
    // The next result that is printed reports that standard output is closed.
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// Reads in a thread that the process does not wait for, because reading from a terminal cannot be cancelled.
fn read_keys() -> mpsc::Receiver<Vec<u8>> {
    let (sender, keys) = mpsc::channel(16);
    std::thread::spawn(move || {
        let mut buffer = [0; 1024];
        while let Ok(count @ 1..) = io::stdin().lock().read(&mut buffer) {
            if sender.blocking_send(buffer[..count].to_vec()).is_err() {
                break;
            }
        }
    });
    keys
}

/// As [`read_keys`], by lines.
fn read_lines() -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel(16);
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            if sender.blocking_send(line).is_err() {
                break;
            }
        }
    });
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Types all bytes; returns the line, and what was entered.
    fn typed(bytes: &[u8]) -> (Line, Vec<Entered>) {
        let mut line = Line::default();
        let entered = bytes.iter().filter_map(|byte| line.take(*byte)).collect();
        (line, entered)
    }

    #[test]
    fn typed_characters_are_shown_until_the_line_is_entered() {
        let (line, entered) = typed("grüße 🐇".as_bytes());
        assert_eq!((line.shown(80).as_str(), entered), ("grüße 🐇", vec![]));
        let (line, entered) = typed("one\ntwo\rthree".as_bytes());
        assert_eq!(line.shown(80), "three");
        assert_eq!(entered, [Entered::Line("one".into()), Entered::Line("two".into())]);
    }

    #[test]
    fn a_line_can_be_corrected() {
        assert_eq!(typed("ä🐇b\u{8}\u{7f}c".as_bytes()).0.text, "äc");
        assert_eq!(typed(b"one two three\x17").0.text, "one two ");
        assert_eq!(typed(b"one two three  \x17\x17").0.text, "one ");
        assert_eq!(typed(b"one\x15two").0.text, "two");
        assert_eq!(typed(b"\x7f\x17").0.text, "");
    }

    #[test]
    fn keys_without_a_character_have_no_effect() {
        assert_eq!(typed(b"a\x1b[Ab\x1b[1;5Cc\x1bOPd\x1bxe\x00\x1af\tg").0.text, "abcdef g");
        assert_eq!(typed(b"a\xFFb\xC3").0.text, "ab");
    }

    #[test]
    fn the_end_key_ends_the_input_only_at_the_beginning_of_a_line() {
        assert_eq!(typed(b"a\x04").1, []);
        assert_eq!(typed(b"a\x7f\x04").1, [Entered::End]);
    }

    #[test]
    fn the_end_of_a_long_line_is_shown() {
        assert_eq!(typed(b"0123456789").0.shown(5), "6789");
        assert_eq!(typed("äöü".as_bytes()).0.shown(6), "öü");
    }
}
