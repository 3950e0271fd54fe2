//! What a component is made of, read from its bytes: refuses what no limit at run time bounds. Whether it is valid is for
//! the compiler to say.

use wasmparser::{CanonicalFunction, Instance, Parser, Payload};

use super::limits::MAX_INSTANCES;
use super::problem::Problem;

/// Bytes that the host keeps for each global and each function of an instantiated module, beside its memory.
const GLOBAL_BYTES: u64 = 16;
const FUNCTION_BYTES: u64 = 32;

/// Over all instances of one guest.
pub(super) const MAX_INSTANCE_BYTES: u64 = 64 << 20;

/// Counts while it reads.
#[derive(Default)]
struct Anatomy {
    makes_resources: bool,
    /// Of the module at hand.
    module: u64,
    /// Of the largest module.
    largest: u64,
    instances: u64,
}

/// Refuses a component that makes resources of its own (each costs memory of the host, and nothing counts them), and one
/// whose instances cost the host too much.
pub(super) fn examine(bytes: &[u8]) -> Result<(), Problem> {
    let Ok(anatomy) = read(bytes) else {
        return Ok(());
    };
    if anatomy.makes_resources {
        return Err(Problem::OwnResources);
    }
    match anatomy.largest.saturating_mul(anatomy.instances) {
        bytes if bytes > MAX_INSTANCE_BYTES => {
            Err(Problem::Unwieldy { mebibytes: bytes >> 20, limit: MAX_INSTANCE_BYTES >> 20 })
        }
        _ => Ok(()),
    }
}

fn read(bytes: &[u8]) -> wasmparser::Result<Anatomy> {
    let mut anatomy = Anatomy::default();
    let mut depth = 0_u32;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload? {
            Payload::ModuleSection { .. } => {
                anatomy.module = 0;
                depth += 1;
            }
            Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::GlobalSection(globals) => anatomy.grow(globals.count(), GLOBAL_BYTES),
            Payload::FunctionSection(functions) => anatomy.grow(functions.count(), FUNCTION_BYTES),
            Payload::InstanceSection(instances) => {
                for instance in instances {
                    if matches!(instance?, Instance::Instantiate { .. }) {
                        // An inner component may be instantiated any number of times.
                        anatomy.instances += if depth > 0 { MAX_INSTANCES as u64 } else { 1 };
                    }
                }
                anatomy.instances = anatomy.instances.min(MAX_INSTANCES as u64);
            }
            Payload::ComponentCanonicalSection(functions) => {
                for function in functions {
                    anatomy.makes_resources |= matches!(function?, CanonicalFunction::ResourceNew { .. });
                }
            }
            _ => {}
        }
    }
    Ok(anatomy)
}

impl Anatomy {
    fn grow(&mut self, count: u32, bytes: u64) {
        self.module += u64::from(count) * bytes;
        self.largest = self.largest.max(self.module);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::{quiet_component, zoo_component};

    fn verdict(text: &str) -> String {
        examine(&wat::parse_str(text).unwrap()).map_or_else(|problem| problem.to_string(), |()| String::new())
    }

    #[test]
    fn ordinary_components_pass() {
        assert!(examine(&quiet_component()).is_ok() && examine(&zoo_component()).is_ok());
        assert!(examine(b"\0asm\x0d\0\x01\0nonsense").is_ok(), "the compiler says what is wrong with it");
    }

    #[test]
    fn resources_of_its_own_are_refused() {
        let said = verdict("(component (type $r (resource (rep i32))) (core func (canon resource.new $r)))");
        assert!(said.contains("makes resources of its own"), "{said}");
    }

    #[test]
    fn many_instances_of_a_large_module_are_refused() {
        let globals = "(global i32 (i32.const 0))".repeat(100_000);
        let module = format!("(core module $m {globals})");
        assert_eq!(verdict(&format!("(component {module} (core instance (instantiate $m)))")), "");
        let many = "(core instance (instantiate $m))".repeat(50);
        let said = verdict(&format!("(component {module} {many})"));
        assert!(said.contains("76 MiB") && said.contains("64 MiB"), "{said}");
        let inner = format!("(component $c {module} (core instance (instantiate $m)))");
        let said = verdict(&format!("(component {inner} (instance (instantiate $c)))"));
        assert!(said.contains("64 MiB"), "{said}");
    }
}
