//! The README of a set-up as a script: its commands are what the tests type.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A README of a folder in `config/`, with its commands.
pub struct Readme {
    folder: PathBuf,
    blocks: Vec<Block>,
    used: RefCell<BTreeSet<usize>>,
}

struct Block {
    heading: String,
    language: String,
    text: String,
}

impl Readme {
    pub fn of(folder: &str) -> Readme {
        Readme::at(&format!("config/{folder}/README.md"))
    }

    /// Another page of this repository.
    pub fn at(page: &str) -> Readme {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
        let text = fs::read_to_string(&page).expect("is there");
        let folder = page.parent().expect("is in a folder").to_owned();
        Readme { folder, blocks: blocks(&text), used: RefCell::default() }
    }

    /// The set-up's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The commands below the heading that starts with this, in the order of their blocks.
    pub fn commands<const N: usize>(&self, heading: &str) -> [&str; N] {
        let found = self.of_heading(heading, "sh");
        self.used.borrow_mut().extend(found.iter().map(|(index, _)| index));
        let texts: Vec<&str> = found.into_iter().map(|(_, text)| text).collect();
        texts.try_into().unwrap_or_else(|texts: Vec<&str>| {
            panic!("{N} blocks of commands are expected below {heading:?}, and there are {}", texts.len())
        })
    }

    /// The first command below this heading, which writes other addresses into the files, leaves none of the old ones.
    pub fn leaves_no_address_behind(&self, heading: &str, old: &str) {
        let directory = tempfile::tempdir().expect("a directory");
        let (index, readdress) = self.of_heading(heading, "sh").swap_remove(0);
        self.used.borrow_mut().insert(index);
        let run = |script: &str| {
            let output = Command::new("bash").args(["-ec", script]).current_dir(directory.path()).output();
            output.expect("bash is there")
        };
        let changed = run(&format!("cp -r {}/. .\n{readdress}", self.folder.display()));
        assert!(changed.status.success(), "{}", String::from_utf8_lossy(&changed.stderr));
        let left = String::from_utf8(run(&format!("grep -rnE '{old}' .")).stdout).expect("is text");
        let left: Vec<&str> = left.lines().filter(|line| !line.contains("sed -i")).collect();
        assert!(left.is_empty(), "these are left:\n{}", left.join("\n"));
    }

    /// What is shown below the heading in another language than that of the shell.
    pub fn excerpt(&self, heading: &str, language: &str) -> &str {
        let found = self.of_heading(heading, language);
        assert_eq!(found.len(), 1, "one block of {language} below {heading:?}");
        found[0].1
    }

    /// No command may be in the README that the test does not type.
    pub fn assert_all_is_used(&self) {
        let used = self.used.borrow();
        let is_unused = |(index, block): &(usize, &Block)| block.language == "sh" && !used.contains(index);
        let unused: Vec<&str> =
            self.blocks.iter().enumerate().filter(is_unused).map(|(_, block)| block.text.as_str()).collect();
        assert!(unused.is_empty(), "the test does not type these commands of the README:\n{}", unused.join("\n---\n"));
    }

    fn of_heading(&self, heading: &str, language: &str) -> Vec<(usize, &str)> {
        let belongs = |block: &Block| block.heading.starts_with(heading) && block.language == language;
        let found = self.blocks.iter().enumerate().filter(|(_, block)| belongs(block));
        found.map(|(index, block)| (index, block.text.as_str())).collect()
    }
}

fn blocks(text: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let (mut heading, mut inside) = (String::new(), None);
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        match (inside, line.trim_start().strip_prefix("```")) {
            (None, Some(language)) => {
                inside = Some(indent);
                blocks.push(Block { heading: heading.clone(), language: language.to_owned(), text: String::new() });
            }
            (Some(_), Some("")) => inside = None,
            (Some(indent), _) => {
                let block = blocks.last_mut().expect("begun above");
                block.text += line.get(indent..).unwrap_or_default();
                block.text.push('\n');
            }
            (None, None) => {
                if let Some(title) = line.strip_prefix("## ") {
                    title.clone_into(&mut heading);
                }
            }
        }
    }
    assert!(inside.is_none(), "a block does not end");
    blocks
}

#[test]
fn commands_are_found_below_their_heading() {
    let text = "# All\n```sh\nfirst\n```\n## One\n1. Do:\n   ```sh\n   a \\\n       b\n   ```\n\n```php\nc\n```\n## Two\n```sh\nd\n```\n";
    let found: Vec<_> = blocks(text).into_iter().map(|block| (block.heading, block.language, block.text)).collect();
    let expected = [("", "sh", "first\n"), ("One", "sh", "a \\\n    b\n"), ("One", "php", "c\n"), ("Two", "sh", "d\n")];
    assert_eq!(found, expected.map(|(heading, language, text)| (heading.into(), language.into(), text.into())));
}
