//! The groups that a verb is for, as they are named on the command line.
//!
//! Kafka allows a comma in a group's name: `--groups` takes commas as separators, `--group` as a part of the name. A name that
//! is empty is refused: it is a shell's variable that is not set, and Kafka would make a group of that name.

use crate::error::Error;

/// The groups that are named; none where the verb is to take them from elsewhere.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct GroupArgs {
    /// The groups; names with commas between, or given again
    #[arg(long, value_name = "GROUP,…", value_delimiter = ',', value_parser = name)]
    groups: Vec<String>,
    /// A group, by its whole name, which may have commas in it; may be given again
    #[arg(long, value_name = "GROUP", value_parser = name)]
    group: Vec<String>,
}

impl GroupArgs {
    /// Returns whether no group is named.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.group.is_empty()
    }

    /// Returns each name once, as it was typed.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for name in self.groups.iter().chain(&self.group) {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        names
    }
}

/// Makes the error of who names no group where some are to be named.
pub fn none_named() -> Error {
    Error::usage("no group is named").hint("add --groups, --group or --all-groups")
}

/// Reads a group's name.
fn name(text: &str) -> Result<String, String> {
    match text {
        "" => Err("a group's name is empty".to_owned()),
        name => Ok(name.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Typed {
        #[command(flatten)]
        groups: GroupArgs,
    }

    fn typed(arguments: &[&str]) -> Result<Vec<String>, String> {
        let typed = Typed::try_parse_from([&["k"], arguments].concat()).map_err(|error| error.to_string())?;
        assert_eq!(typed.groups.is_empty(), arguments.is_empty());
        Ok(typed.groups.names())
    }

    #[test]
    fn commas_part_names_or_are_parts_of_one_and_each_name_counts_once() {
        assert_eq!(typed(&[]), Ok(Vec::new()));
        assert_eq!(typed(&["--groups", "b,a", "--groups", "a"]), Ok(vec!["b".to_owned(), "a".to_owned()]));
        let both = ["--groups", "b,c", "--group", "a,b", "--group", "b"];
        assert_eq!(typed(&both), Ok(vec!["b".to_owned(), "c".to_owned(), "a,b".to_owned()]));
    }

    #[test]
    fn a_name_that_is_empty_is_refused() {
        for wrong in [["--groups", ""], ["--groups", "a,,b"], ["--groups", "a,"], ["--group", ""]] {
            let error = typed(&wrong).expect_err("no name");
            assert!(error.contains("a group's name is empty"), "{wrong:?}: {error}");
        }
    }
}
