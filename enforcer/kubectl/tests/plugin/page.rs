//! The page of `-o html` in a real browser: search, sort, keys, and names that are hostile.

use std::{env, fs, path::Path};

use enforcer_testing::browser::Browser;
use libtest_mimic::{Completion, Failed, Trial};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cluster::{Cluster, actor, ledger, row};

/// Variable with the folder for pictures of the page; docs/ has them.
const SCREENSHOTS: &str = "PORT_ENFORCER_SCREENSHOTS";

type Test = (&'static str, fn(&Browser));

const TESTS: [Test; 3] = [
    ("page_is_searched_and_sorted", page_is_searched_and_sorted),
    ("hostile_names_are_inert_and_nothing_is_requested", hostile_names_are_inert_and_nothing_is_requested),
    ("page_of_many_nodes_groups_what_is_alike", page_of_many_nodes_groups_what_is_alike),
];

/// Tests that are skipped where there is no browser.
pub(crate) fn trials() -> impl Iterator<Item = Trial> {
    TESTS.into_iter().map(|(name, run)| {
        Trial::ignorable_test(format!("page::{name}"), move || match Browser::start() {
            Some(browser) => {
                run(&browser);
                Ok::<_, Failed>(Completion::Completed)
            }
            None => Ok(Completion::ignored_with("chromium or chromedriver is not installed")),
        })
    })
}

/// Opens the page of a cluster.
fn open(browser: &Browser, cluster: &Cluster) -> TempDir {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("ports.html");
    fs::write(&file, cluster.run(&["-o", "html"]).stdout).expect("writing the page");
    browser.open(&file);
    folder
}

/// The texts of a column in the table, from the top.
fn column(browser: &Browser, place: usize) -> Vec<String> {
    let script = format!("return [...document.querySelectorAll('#rows tr')].map(row => row.cells[{place}].innerText)");
    let cells = browser.script(&script);
    cells.as_array().into_iter().flatten().filter_map(|cell| cell.as_str().map(str::to_owned)).collect()
}

fn wait_for_count(browser: &Browser, text: &str) {
    browser.wait(text, &format!("return document.getElementById('count').innerText.startsWith('{text}')"));
}

fn page_is_searched_and_sorted(browser: &Browser) {
    let cluster = Cluster::of_the_story().with_ledgers();
    let _folder = open(browser, &cluster);
    wait_for_count(browser, "10 of 10");
    if let Some(folder) = env::var_os(SCREENSHOTS) {
        for scheme in ["light", "dark"] {
            browser.prefer(scheme);
            browser.screenshot(&Path::new(&folder).join(format!("host-ports-{scheme}.png")));
        }
        browser.prefer("light");
    }
    let conflicts = browser.script("return document.querySelectorAll('#conflict-list li').length");
    assert_eq!(conflicts, 3, "conflicts come first");
    let first = column(browser, 1);
    assert_eq!(first[..2], ["80", "80"], "rows in conflict come first: {first:?}");
    browser.type_into("#search", "daemonset 9100");
    wait_for_count(browser, "2 of 10");
    assert_eq!(column(browser, 0), ["node-2", "node-1"], "the one in conflict comes first");
    // Escape clears it.
    browser.type_into("#search", "\u{e00c}");
    wait_for_count(browser, "10 of 10");
    browser.type_into("button[data-key=port]", "\u{e007}");
    let sorted = |ports: &[String]| ports.iter().map(|port| port.parse::<u32>().expect("a port")).collect::<Vec<_>>();
    let ports = sorted(&column(browser, 1));
    assert!(ports.is_sorted(), "{ports:?}");
    browser.type_into("button[data-key=port]", "\u{e007}");
    let ports = sorted(&column(browser, 1));
    assert!(ports.iter().rev().is_sorted(), "{ports:?}");
    let order = browser.script("return document.querySelector('button[data-key=port]').closest('th').ariaSort");
    assert_eq!(order, "descending");
    assert_eq!(browser.complaints(), Vec::<Value>::new());
}

fn hostile_names_are_inert_and_nothing_is_requested(browser: &Browser) {
    let cluster = Cluster::new();
    let names = [
        "</script><img src=x onerror=\"window.hurt = 1\">",
        "<svg onload=alert(1)>",
        "{{SCRIPT}}",
        "javascript:alert(1)",
        "\u{202e}txt.exe",
        &"x".repeat(253),
    ];
    let rows: Vec<Value> = names
        .iter()
        .zip(1..)
        .map(|(name, port)| row(port, &actor(name, name, &format!("Job {name}")), None, true))
        .collect();
    let conflict = json!([{
        "kind": "notOwner", "ports": "0.0.0.0:1/tcp", "who": actor(names[0], names[0], "x"),
        "other": actor(names[1], names[1], "y"),
    }]);
    cluster.server.put_ledger(ledger("node-1", "audit", &json!(rows), &conflict));
    let _folder = open(browser, &cluster);
    wait_for_count(browser, "6 of 6");
    let injected = "return document.querySelectorAll('img, iframe, object, embed, link, #rows script').length";
    assert_eq!(browser.script(injected), 0);
    assert_eq!(browser.script("return typeof window.hurt"), "undefined");
    let shown = column(browser, 4).concat();
    assert!(shown.contains("</script><img src=x") && shown.contains("{{SCRIPT}}"), "shown as text: {shown}");
    assert!(!shown.contains('\u{202e}'), "{shown}");
    let requests = browser.script("return performance.getEntriesByType('resource').length");
    assert_eq!(requests, 0, "nothing is loaded");
    // The policy forbids what the page itself never does.
    browser.script(
        "document.body.insertAdjacentHTML('beforeend', '<b id=probe style=\"color: rgb(1, 2, 3)\">x</b>'); return 0",
    );
    let colour = browser.script("return getComputedStyle(document.getElementById('probe')).color");
    assert_ne!(colour, "rgb(1, 2, 3)");
    let complaints = browser.complaints();
    assert_eq!(complaints.len(), 1, "the probe's alone: {complaints:?}");
}

fn page_of_many_nodes_groups_what_is_alike(browser: &Browser) {
    let cluster = Cluster::new();
    cluster.server.delete_node("node-1");
    for number in 0..300_u16 {
        let exporter = actor("monitoring", &format!("exporter-{number}"), "DaemonSet exporter");
        let mut rows = vec![row(9100, &exporter, Some(("hostPort", "inForce")), true)];
        if number == 7 {
            rows.push(row(8080, &actor("tools", "debug", "Job debug"), None, true));
        }
        let node = format!("worker-{number:03}");
        cluster.server.put_ledger(ledger(&node, "audit", &json!(rows), &json!([])));
    }
    let _folder = open(browser, &cluster);
    wait_for_count(browser, "301 of 301");
    let picture = browser.script("return document.getElementById('picture').innerText");
    let picture = picture.as_str().expect("a text");
    assert!(picture.contains("299 nodes") && picture.contains("worker-007"), "{picture}");
    assert_eq!(column(browser, 0).len(), 200, "a page of the table");
    browser.type_into("#next", "\u{e007}");
    browser.wait("the next page", "return document.querySelectorAll('#rows tr').length === 101");
    assert_eq!(browser.complaints(), Vec::<Value>::new());
}
