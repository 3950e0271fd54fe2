//! Documents of docs/, and the programs in them, run with node.

use std::path::Path;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::programs::Folder;
use crate::waiting::within;

/// The blocks of this kind in a document of docs/, in order.
pub fn blocks(document: &str, kind: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(document);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let fence = format!("```{kind}\n");
    let parts = text.split(fence.as_str()).skip(1);
    parts.map(|part| part.split("```").next().unwrap_or_default().to_owned()).collect()
}

/// A program that node runs; killed with this value.
#[derive(Debug)]
pub struct NodeProgram {
    _child: Child,
    output: Lines<BufReader<ChildStdout>>,
    seen: Vec<String>,
    _folder: Folder,
}

impl NodeProgram {
    /// Runs these files, the first as the program; `PORT` is 0.
    pub fn start(files: &[(&str, &str)]) -> NodeProgram {
        let folder = Folder::new();
        for (name, text) in files {
            folder.file(name, text);
        }
        let node =
            std::env::var_os("PRESENCE_NODE").expect("`cargo xtask test` names a node in PRESENCE_NODE");
        let mut command = Command::new(node);
        command.arg(folder.path().join(files[0].0)).env("PORT", "0").kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("node can't be started: {error}"));
        let output = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        NodeProgram { _child: child, output, seen: Vec::new(), _folder: folder }
    }

    /// Reads what it prints up to a line that begins like this; answers the rest of it.
    pub async fn until_printed(&mut self, start: &str) -> String {
        let found = within(format!("a line of node that begins with {start:?}"), async {
            loop {
                match self.output.next_line().await {
                    Ok(Some(line)) => {
                        if let Some(rest) = line.strip_prefix(start) {
                            return Some(rest.trim().to_owned());
                        }
                        self.seen.push(line);
                    }
                    _ => return None,
                }
            }
        });
        let found = found.await;
        found.unwrap_or_else(|| panic!("node ended before it printed {start:?}: {:#?}", self.seen))
    }
}
