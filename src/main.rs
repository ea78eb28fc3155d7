//! The `warrengate` command.

fn main() {}
