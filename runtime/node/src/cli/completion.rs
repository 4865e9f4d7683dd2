//! `amphi completion`: what a shell needs to complete commands and flags.

use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::{Generator, Shell};

use super::Cli;
use super::failure::{Failure, exit};
use super::screen::Screen;

/// `completion`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  source <(amphi completion bash)                                    for this shell\n  amphi completion zsh > \"${fpath[1]}/_amphi\"                         for good\n  amphi completion fish > ~/.config/fish/completions/amphi.fish      for good"
)]
pub struct CompletionArgs {
    /// The shell
    #[arg(value_enum)]
    shell: ShellName,
}

/// Shells that people use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ShellName {
    /// Bash
    Bash,
    /// Z shell
    Zsh,
    /// Fish
    Fish,
}

impl From<ShellName> for Shell {
    fn from(name: ShellName) -> Self {
        match name {
            ShellName::Bash => Self::Bash,
            ShellName::Zsh => Self::Zsh,
            ShellName::Fish => Self::Fish,
        }
    }
}

/// Prints a script; it is the same with and without `--json`, because only the shell reads it.
pub fn completion(screen: Screen, args: &CompletionArgs) -> Result<u8, Failure> {
    screen.write_bytes(&script(args.shell))?;
    Ok(exit::OK)
}

fn script(shell: ShellName) -> Vec<u8> {
    let mut command = Cli::command();
    command.set_bin_name("amphi");
    command.build();
    // Written to memory first: the library panics where a reader of standard output has gone away.
    let mut text = Vec::new();
    Shell::from(shell).generate(&command, &mut text);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of all commands that are shown, however deep.
    fn names(command: &clap::Command, into: &mut Vec<String>) {
        for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
            into.push(command.get_name().to_owned());
            names(command, into);
        }
    }

    #[test]
    fn every_shell_gets_every_command() {
        let mut all = Vec::new();
        names(&Cli::command(), &mut all);
        assert!(all.len() > 40 && ["top", "logs", "validate", "show"].iter().all(|name| all.iter().any(|known| known == name)));
        for shell in ShellName::value_variants() {
            let text = String::from_utf8(script(*shell)).expect("text");
            for word in all.iter().map(String::as_str).chain(["amphi", "request-timeout", "context"]) {
                assert!(text.contains(word), "{shell:?} does not complete {word}");
            }
        }
    }
}
