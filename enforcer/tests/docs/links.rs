use std::{collections::HashMap, fs, path::Path};

use crate::{Page, pages, root};

/// What a heading is found by, as the hosts of repositories make it: lower case, spaces as hyphens, and of the rest only
/// letters, digits, hyphens and underscores.
fn slug(heading: &str) -> String {
    let mut slug = String::new();
    for character in heading.to_lowercase().chars() {
        if character == ' ' {
            slug.push('-');
        } else if character.is_alphanumeric() || character == '-' || character == '_' {
            slug.push(character);
        }
    }
    slug
}

/// The text without its blocks and without what stands between backticks, where nothing is a link.
fn prose(text: &str) -> String {
    let mut inside = false;
    let mut prose = String::new();
    for line in text.lines() {
        if line.starts_with("```") {
            inside = !inside;
        } else if !inside {
            prose.extend(line.split('`').step_by(2));
            prose.push('\n');
        }
    }
    prose
}

fn anchors(text: &str) -> Vec<String> {
    let mut seen: HashMap<String, u32> = HashMap::new();
    let mut inside = false;
    let mut anchors = Vec::new();
    for line in text.lines() {
        inside ^= line.starts_with("```");
        let heading = line.trim_start_matches('#');
        if !inside && heading.len() < line.len() && heading.starts_with(' ') {
            let slug = slug(heading.trim());
            let count = seen.entry(slug.clone()).or_default();
            anchors.push(if *count == 0 { slug.clone() } else { format!("{slug}-{count}") });
            *count += 1;
        }
    }
    anchors
}

/// What is in round brackets behind square ones.
fn links(text: &str) -> Vec<String> {
    let prose = prose(text);
    let targets = prose.split("](").skip(1).filter_map(|after| after.split(')').next());
    targets.map(str::to_owned).collect()
}

/// Why a link from a file leads nowhere.
fn broken(from: &Path, link: &str) -> Option<String> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = if path.is_empty() { root().join(from) } else { root().join(from).parent()?.join(path) };
    if !target.exists() {
        return Some(format!("{}: {link}: there is no such file", from.display()));
    }
    if anchor.is_empty() {
        return None;
    }
    let text = fs::read_to_string(&target).ok()?;
    (!anchors(&text).iter().any(|known| known == anchor))
        .then(|| format!("{}: {link}: there is no such heading", from.display()))
}

#[test]
fn every_link_has_a_target() {
    let mut count = 0;
    let mut all = Vec::new();
    for Page { path, text } in pages() {
        let links = links(&text);
        count += links.len();
        all.extend(links.iter().filter_map(|link| broken(&path, link)));
    }
    assert!(all.is_empty(), "{all:#?}");
    assert!(count > 60, "{count} links were found");
}

#[test]
fn every_runbook_url_has_a_page() {
    let rules = fs::read_to_string(root().join("deploy/components/monitoring/rules.yaml")).expect("rules");
    let pages: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("runbook_url: ")).collect();
    assert!(pages.len() > 5, "{pages:?}");
    let broken: Vec<_> = pages.iter().filter_map(|page| broken(Path::new("README.md"), page)).collect();
    assert!(broken.is_empty(), "{broken:#?}");
}

/// A page that nobody leads to is one that nobody reads.
#[test]
fn every_page_is_linked() {
    let pages = pages();
    let linked: Vec<String> = pages
        .iter()
        .flat_map(|page| {
            let folder = page.path.parent().expect("a folder").to_owned();
            links(&page.text).into_iter().map(move |link| folder.join(link.split('#').next().unwrap_or_default()))
        })
        .filter_map(|path| Some(fs::canonicalize(root().join(path)).ok()?.display().to_string()))
        .collect();
    for Page { path, .. } in pages.iter().filter(|page| page.path.starts_with("docs")) {
        let full = fs::canonicalize(root().join(path)).expect("a page").display().to_string();
        // By itself, or by its folder.
        let folder = Path::new(&full).parent().expect("a folder").display().to_string();
        assert!(linked.contains(&full) || linked.contains(&folder), "nothing leads to {}", path.display());
    }
}

#[test]
fn anchors_match_github_slugs() {
    let text = "# One\n## `bind()` to 0.0.0.0:80, twice\n```sh\n# no heading\n```\n## One\n";
    assert_eq!(anchors(text), ["one", "bind-to-000080-twice", "one-1"]);
    assert_eq!(links("[a](b.md#c), `[d](e)`\n```text\n[f](g)\n```\n"), ["b.md#c"]);
    assert!(broken(Path::new("README.md"), "docs/nothing.md").is_some());
    assert!(broken(Path::new("README.md"), "docs/operations.md#nothing").is_some());
    assert!(broken(Path::new("docs/operations.md"), "metrics.md#questions").is_none());
}
