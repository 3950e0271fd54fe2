//! Whether a component is a plugin of this contract, decided from its imports and exports alone, before it runs.
//! Reports everything that is wrong at once.

use std::collections::BTreeSet;

use presence_core::events::Hook;
use wasmtime::Engine;
use wasmtime::component::Component;
use wasmtime::component::types::ComponentItem;

use super::problem::Problem;

/// The version of the contract, `presence:plugin@…`.
pub const CONTRACT: &str = "0.1.0";
const CONTRACT_SERIES: (u64, u64) = (0, 1);
const PACKAGE: &str = "presence:plugin";

/// What the contract itself offers to plugins.
pub(super) const IMPORTS: [&str; 4] = ["log", "keyvalue", "messaging", "presence"];

/// WASI 0.2 interfaces that are linked. Files, sockets and the environment are there, but empty.
pub(super) const WASI: [(&str, &[&str]); 7] = [
    ("wasi:io", &["error", "poll", "streams"]),
    ("wasi:clocks", &["monotonic-clock", "wall-clock"]),
    ("wasi:random", &["random", "insecure", "insecure-seed"]),
    (
        "wasi:cli",
        &[
            "environment",
            "exit",
            "stdin",
            "stdout",
            "stderr",
            "terminal-input",
            "terminal-output",
            "terminal-stdin",
            "terminal-stdout",
            "terminal-stderr",
        ],
    ),
    ("wasi:filesystem", &["types", "preopens"]),
    (
        "wasi:sockets",
        &[
            "network",
            "instance-network",
            "ip-name-lookup",
            "tcp",
            "tcp-create-socket",
            "udp",
            "udp-create-socket",
        ],
    ),
    ("wasi:http", &["types", "outgoing-handler"]),
];
const WASI_SERIES: (u64, u64) = (0, 2);

/// What a component that may be loaded offers and wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admitted {
    /// At least one.
    pub hooks: BTreeSet<Hook>,
    /// True when it exports `configure`.
    pub configurable: bool,
    /// Full names, types-only ones left out; sorted.
    pub imports: Vec<String>,
}

/// Tells by its first bytes whether a file can be a component at all.
pub(super) fn check_header(bytes: &[u8]) -> Result<(), Problem> {
    match bytes {
        [] => Err(Problem::Empty),
        [0, b'a', b's', b'm', 0x0d, 0, 1, 0, ..] => Ok(()),
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => Err(Problem::CoreModule),
        _ => Err(Problem::NotWasm),
    }
}

/// What a component offers and wants, if it may be loaded.
pub(super) fn examine(engine: &Engine, component: &Component) -> Result<Admitted, Vec<Problem>> {
    let (admitted, problems) = survey(engine, component);
    if problems.is_empty() { Ok(admitted) } else { Err(problems) }
}

/// Classifies every import and export; also of a component that may not be loaded.
pub(super) fn survey(engine: &Engine, component: &Component) -> (Admitted, Vec<Problem>) {
    let types = component.component_type();
    let mut problems = Vec::new();
    let mut admitted = Admitted::default();
    for (name, import) in types.imports(engine) {
        if types_only(engine, &import.ty) {
            continue;
        }
        admitted.imports.push(name.to_owned());
        problems.extend(import_problem(name));
    }
    admitted.imports.sort();
    let mut others = Vec::new();
    for (name, _) in types.exports(engine) {
        match classify_export(name) {
            Export::Hook(hook) => _ = admitted.hooks.insert(hook),
            Export::Configure => admitted.configurable = true,
            Export::Foreign => others.push(format!("`{name}`")),
            Export::Wrong(problem) => problems.push(problem),
        }
    }
    let wrong_export =
        |problem: &Problem| matches!(problem, Problem::ExportVersion { .. } | Problem::UnknownExport(_));
    if admitted.hooks.is_empty() && !problems.iter().any(wrong_export) {
        problems.push(Problem::NoHook(instead(&others)));
    }
    (admitted, problems)
}

fn instead(others: &[String]) -> String {
    match others {
        [] => String::new(),
        others => format!("; it exports {}", others.join(", ")),
    }
}

/// Interfaces that hold types alone are satisfied by the component itself.
fn types_only(engine: &Engine, item: &ComponentItem) -> bool {
    match item {
        ComponentItem::ComponentInstance(instance) => {
            instance.exports(engine).all(|(_, export)| matches!(export.ty, ComponentItem::Type(_)))
        }
        ComponentItem::Type(_) => true,
        _ => false,
    }
}

/// `package:name/interface@version` in its parts.
struct Name<'a> {
    package: &'a str,
    interface: &'a str,
    series: Option<(u64, u64)>,
}

impl Name<'_> {
    fn parse(text: &str) -> Option<Name<'_>> {
        let (path, version) = match text.split_once('@') {
            Some((path, version)) => (path, Some(version)),
            None => (text, None),
        };
        let (package, interface) = path.split_once('/')?;
        let series = version.and_then(|version| {
            let mut numbers = version.splitn(3, '.').map(str::parse);
            Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
        });
        Some(Name { package, interface, series })
    }
}

fn import_problem(name: &str) -> Option<Problem> {
    let unknown = || Some(Problem::UnknownImport(name.to_owned()));
    let Some(Name { package, interface, series }) = Name::parse(name) else {
        return unknown();
    };
    if package == PACKAGE {
        return match (series, interface) {
            (Some(CONTRACT_SERIES), interface) if IMPORTS.contains(&interface) => None,
            (Some(CONTRACT_SERIES), _) => unknown(),
            (series, _) => Some(Problem::ImportVersion {
                import: name.to_owned(),
                ours: CONTRACT,
                remedy: remedy(series),
            }),
        };
    }
    let linked = WASI.iter().any(|(known, interfaces)| *known == package && interfaces.contains(&interface));
    if linked && series == Some(WASI_SERIES) { None } else { unknown() }
}

enum Export {
    Hook(Hook),
    Configure,
    /// Not of our contract: nobody calls it, and it does no harm.
    Foreign,
    Wrong(Problem),
}

fn classify_export(name: &str) -> Export {
    let Some(Name { package, interface, series }) = Name::parse(name) else {
        return Export::Foreign;
    };
    if package != PACKAGE {
        return Export::Foreign;
    }
    if series != Some(CONTRACT_SERIES) {
        let problem =
            Problem::ExportVersion { export: name.to_owned(), ours: CONTRACT, remedy: remedy(series) };
        return Export::Wrong(problem);
    }
    match Hook::ALL.into_iter().find(|hook| hook.as_str() == interface) {
        Some(hook) => Export::Hook(hook),
        None if interface == "configure" => Export::Configure,
        None => Export::Wrong(Problem::UnknownExport(name.to_owned())),
    }
}

fn remedy(theirs: Option<(u64, u64)>) -> &'static str {
    match theirs {
        Some(series) if series > CONTRACT_SERIES => "upgrade the host, or build with an older SDK",
        _ => "build it again with the SDK of this host's version",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::engine::new_engine;

    /// The texts of all problems of a component in the text format.
    fn problems(text: &str) -> Vec<String> {
        let engine = new_engine().unwrap();
        let component = Component::new(&engine, wat::parse_str(text).unwrap()).unwrap();
        match examine(&engine, &component) {
            Ok(_) => Vec::new(),
            Err(problems) => problems.iter().map(ToString::to_string).collect(),
        }
    }

    const EXPORT: &str = r#"(core module $m (func (export "f"))) (core instance $i (instantiate $m))
        (func $f (canon lift (core func $i "f"))) (instance $e (export "handle" (func $f)))"#;

    #[test]
    fn headers_tell_what_a_file_is() {
        let check = |bytes: &[u8]| check_header(bytes).map_err(|problem| problem.to_string());
        assert_eq!(check(b"\0asm\x0d\0\x01\0rest"), Ok(()));
        assert!(check(b"").unwrap_err().contains("empty"));
        assert!(check(b"#!/bin/sh").unwrap_err().contains("not a WebAssembly file"));
        assert!(check(b"\0asm\x01\0\0\0").unwrap_err().contains("wasm32-wasip2"));
        assert!(check(b"\0asm").unwrap_err().contains("not a WebAssembly file"));
    }

    #[test]
    fn everything_wrong_is_reported_at_once() {
        let found = problems(&format!(
            r#"(component
                (import "wasi:nn/tensor@0.2.0" (instance (export "a" (func))))
                (import "wasi:cli/run@0.2.0" (instance (export "run" (func))))
                (import "wasi:io/poll@0.3.0" (instance (export "poll" (func))))
                (import "presence:plugin/log@0.2.0" (instance (export "log" (func))))
                (import "presence:plugin/calendar@0.1.0" (instance (export "send" (func))))
                (import "naked" (func))
                {EXPORT}
                (export "presence:plugin/user-online@0.2.0" (instance $e))
                (export "presence:plugin/user-onlin@0.1.0" (instance $e)))"#
        ));
        let expected = [
            "imports `wasi:nn/tensor@0.2.0`",
            "imports `wasi:cli/run@0.2.0`",
            "imports `wasi:io/poll@0.3.0`",
            "imports `presence:plugin/log@0.2.0`, but this host speaks version 0.1.0 of the contract: upgrade",
            "imports `presence:plugin/calendar@0.1.0`",
            "imports `naked`",
            "exports `presence:plugin/user-online@0.2.0`, but this host speaks version 0.1.0",
            "exports `presence:plugin/user-onlin@0.1.0`, a hook that this host does not know",
        ];
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.contains(expected), "{found}\nshould say\n{expected}");
        }
    }

    #[test]
    fn a_component_without_hooks_is_refused_and_told_what_it_exports() {
        let found = problems(&format!(r#"(component {EXPORT} (export "wasi:cli/run@0.2.6" (instance $e)))"#));
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("exports no hook") && found[0].contains("it exports `wasi:cli/run@0.2.6`"));
        assert!(problems("(component)")[0].contains("exports no hook"));
    }

    #[test]
    fn wasi_and_types_alone_are_no_problem() {
        let found = problems(&format!(
            r#"(component
                (import "wasi:cli/environment@0.2.6" (instance (export "get-arguments" (func (result (list string))))))
                (import "wasi:keyvalue/store@0.2.0-draft" (instance (type $t (enum "a")) (export "t" (type (eq $t)))))
                {EXPORT}
                (export "presence:plugin/user-online@0.1.0" (instance $e)))"#
        ));
        assert_eq!(found, [] as [String; 0]);
    }
}
