//! The folders of `agent/src` are layers, the graph of their modules has no cycle, and no function of the product takes a
//! tuple. Clippy holds the bounds of a function (`clippy.toml`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Each module of a folder with the modules that it uses. A module's own folder is part of it.
type Graph = BTreeMap<String, BTreeSet<String>>;

/// The folders as docs/architecture.md has them, the lowest first.
fn layers() -> Vec<String> {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/architecture.md")).unwrap();
    let (_, table) = page.split_once("| layer | content |").expect("the table of layers");
    let (table, _) = table.split_once("\n\n").unwrap();
    let mut layers: Vec<_> = table.lines().filter_map(|row| row.strip_prefix("| `")?.split('`').next()).collect();
    layers.reverse();
    layers.into_iter().map(str::to_owned).collect()
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let (folders, files): (Vec<_>, Vec<_>) =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).partition(|path| path.is_dir());
    let files = files.into_iter().filter(|file| file.extension().is_some_and(|end| end == "rs"));
    files.chain(folders.iter().flat_map(|folder| sources(folder))).collect()
}

/// `policy::gate` for the file `policy/gate.rs` and all below `policy/gate`, `policy` for `policy/mod.rs`.
fn module(file: &Path) -> String {
    let parts: Vec<_> = file.with_extension("").iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    parts.into_iter().filter(|part| part != "mod").take(2).collect::<Vec<_>>().join("::")
}

/// The paths at the start of `tree`, as they follow `crate::`: a single one, or those of a group in braces.
fn paths(tree: &str) -> Vec<String> {
    let name = tree.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(tree.len());
    let (name, rest) = tree.split_at(name);
    if let Some(rest) = rest.strip_prefix("::") {
        return paths(rest).into_iter().map(|path| format!("{name}::{path}")).collect();
    }
    let Some(group) = rest.strip_prefix('{').filter(|_| name.is_empty()) else { return vec![name.to_owned()] };
    let (mut depth, mut start, mut found) = (1, 0, vec![]);
    for (at, c) in group.char_indices() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        if depth == 0 || (depth == 1 && c == ',') {
            found.extend(paths(group[start..at].trim()));
            start = at + 1;
        }
        if depth == 0 {
            break;
        }
    }
    found
}

/// Every module that the text names by `crate::`, or as a neighbour by `super::`.
fn used(text: &str, own: &str, modules: &BTreeSet<String>) -> BTreeSet<String> {
    let code: String = text.lines().map(|line| line.split("//").next().unwrap_or_default().to_owned() + "\n").collect();
    let folder = own.split("::").next().unwrap_or_default();
    let named = code.split("crate::").skip(1).flat_map(paths);
    let neighbours = code.split("super::").skip(1).flat_map(paths).map(|path| format!("{folder}::{path}"));
    let neighbours = neighbours.filter(|path| modules.contains(&first(path, 2)));
    let named = named.filter(|path| path.starts_with(char::is_lowercase));
    let known = |path: String| [first(&path, 2), first(&path, 1)].into_iter().find(|name| modules.contains(name));
    named.chain(neighbours).filter_map(known).filter(|name| name != own).collect()
}

fn first(path: &str, count: usize) -> String {
    path.split("::").take(count).collect::<Vec<_>>().join("::")
}

fn graph() -> Graph {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"));
    let files =
        sources(root).into_iter().filter(|file| !file.starts_with(root.join("bin")) && !file.ends_with("lib.rs"));
    let files: Vec<_> = files.map(|file| (module(file.strip_prefix(root).unwrap()), file)).collect();
    let modules: BTreeSet<_> = files.iter().map(|(module, _)| module.clone()).collect();
    let mut graph = Graph::new();
    for (module, file) in files {
        let uses = used(&fs::read_to_string(file).unwrap(), &module, &modules);
        graph.entry(module).or_default().extend(uses);
    }
    graph
}

/// The way from `module` back to itself.
fn cycle(graph: &Graph, module: &str, way: &mut Vec<String>, done: &mut BTreeSet<String>) -> Option<Vec<String>> {
    if let Some(start) = way.iter().position(|seen| seen == module) {
        return Some(way[start..].to_vec());
    }
    if !done.insert(module.to_owned()) {
        return None;
    }
    way.push(module.to_owned());
    let found = graph[module].iter().find_map(|next| cycle(graph, next, way, done));
    way.pop();
    found
}

#[test]
fn a_group_of_imports_is_read_as_single_ones() {
    assert_eq!(paths("a::{b, c::{D, self}, e::F as G};"), ["a::b", "a::c::D", "a::c::self", "a::e::F"]);
    assert_eq!(paths("a::b::c(d)"), ["a::b::c"]);
}

#[test]
fn no_two_modules_use_each_other() {
    let graph = graph();
    let mut done = BTreeSet::new();
    for module in graph.keys() {
        if let Some(way) = cycle(&graph, module, &mut vec![], &mut done) {
            panic!("these use each other: {}", way.join(" -> "));
        }
    }
}

#[test]
fn no_folder_uses_one_above_it() {
    let layers = layers();
    let layer = |module: &str| {
        let folder = first(module, 1);
        layers.iter().position(|name| *name == folder).unwrap_or_else(|| panic!("docs/architecture.md lacks {folder}"))
    };
    for (module, uses) in graph() {
        for used in uses {
            assert!(layer(&used) <= layer(&module), "{module} uses {used}, which is above it");
        }
    }
}

#[test]
fn only_the_boot_environment_asks_which_bootloader_it_is() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"));
    for file in sources(root) {
        let module = module(file.strip_prefix(root).unwrap());
        let text = fs::read_to_string(&file).unwrap();
        let code = text.lines().map(|line| line.split("//").next().unwrap_or_default());
        let asks = |line: &str| ["UBoot(", "Rpi(", "Grub("].iter().any(|kind| line.contains(kind));
        let asking = code.filter(|line| asks(line)).collect::<Vec<_>>();
        let may_ask = module == "device::env" || module.starts_with("config");
        assert!(may_ask || asking.is_empty(), "{module} asks which bootloader it is: {asking:?}");
    }
}

/// The parameters of each function in the text.
fn parameters(text: &str) -> Vec<String> {
    let code: String = text.lines().map(|line| line.split("//").next().unwrap_or_default().to_owned() + "\n").collect();
    let lists = code.split("fn ").skip(1).filter_map(|rest| {
        let (name, list) = rest.split_once('(')?;
        name.chars().all(|c| c.is_alphanumeric() || "_<>'&:, +[]\n".contains(c)).then(|| split_list(list))
    });
    lists.flatten().collect()
}

/// The parts of a list in parentheses, split at its own commas.
fn split_list(list: &str) -> Vec<String> {
    let (mut depth, mut parts) = (0, vec![String::new()]);
    for (at, c) in list.char_indices() {
        let arrow = c == '>' && list[..at].ends_with('-');
        match c {
            ')' if depth == 0 => break,
            '(' | '[' | '<' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            '>' if !arrow => depth -= 1,
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        parts.last_mut().unwrap().push(c);
    }
    parts.iter().map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
}

fn is_bundle(parameter: &str) -> bool {
    let (pattern, kind) = parameter.split_once(": ").unwrap_or((parameter, ""));
    let kind = kind.trim_start_matches(['&', ' ']).trim_start_matches("mut ");
    pattern.starts_with('(') || kind.strip_prefix('(').is_some_and(|list| split_list(list).len() > 1)
}

#[test]
fn a_tuple_among_parameters_is_found() {
    let found = |text: &str| parameters(text).into_iter().filter(|one| is_bundle(one)).count();
    assert_eq!(
        found("fn f<T: Into<u8>>(&self, a: [u8; 2], f: impl Fn(&str, (u8, u8)) -> Result<(), E>) -> (u8, u8) {"),
        0
    );
    assert_eq!(found("fn f(\n    (a, b): (u8, &str),\n    c: u8,\n) {}\nfn g(a: &mut (u8, u8)) {}"), 2);
}

#[test]
fn values_that_belong_together_are_a_type_and_not_a_tuple() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    for file in ["agent/src", "bootenv/src", "cloud-init/src", "publisher/src"]
        .iter()
        .flat_map(|part| sources(&root.join(part)))
    {
        let text = fs::read_to_string(&file).unwrap();
        let bundles: Vec<_> = parameters(&text).into_iter().filter(|one| is_bundle(one)).collect();
        assert!(bundles.is_empty(), "{}: {bundles:?}", file.display());
    }
}
