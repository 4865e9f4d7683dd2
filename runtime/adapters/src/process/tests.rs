//! Laws of the parts that need no process.

use std::collections::BTreeMap;

use amphi_ports::JobNews;

use super::activity::ProgressFile;
use super::launch::{GuardWord, Launch};
use super::mask::{Masker, Secrets};
use super::procfs;

#[test]
fn a_secret_is_hidden_wherever_the_stream_is_cut() {
    let secrets =
        BTreeMap::from([("a".to_owned(), "abcabd".to_owned()), ("b".to_owned(), "abc".to_owned()), ("c".to_owned(), "ü€".to_owned())]);
    let secrets = Secrets::new(&secrets);
    let text = "xabcabcabdabab ü€abc";
    let whole = secrets.hide(text);
    assert_eq!(whole, "x******abab ******");
    for cut in 0..=text.len() {
        for second in cut..=text.len() {
            let mut masker = Masker::new(&secrets);
            let bytes = text.as_bytes();
            let mut shown = masker.push(&bytes[..cut]);
            shown.extend(masker.push(&bytes[cut..second]));
            shown.extend(masker.push(&bytes[second..]));
            shown.extend(masker.finish());
            assert_eq!(String::from_utf8_lossy(&shown), whole, "cut at {cut} and {second}");
        }
    }
}

#[test]
fn the_lines_of_a_long_secret_are_hidden_one_by_one() {
    let secrets = Secrets::new(&BTreeMap::from([("key".to_owned(), "-----BEGIN-----\nMIIabcdefgh\nshort\n".to_owned())]));
    assert_eq!(secrets.hide("got MIIabcdefgh and short"), "got *** and short");
}

#[test]
fn what_is_launched_arrives_and_what_is_no_launch_is_refused() {
    let launch = Launch {
        record: "/r".into(),
        cgroup: None,
        folder: "/f".into(),
        command: vec!["/bin/sh".into(), "-c".into(), "echo \0 \n ü".into()],
        environment: vec!["A=b=c".into(), "E=".into()],
    };
    let bytes = launch.encode();
    assert_eq!(Launch::decode(&mut &bytes[..]).unwrap(), launch);
    for end in 0..bytes.len() {
        assert!(Launch::decode(&mut &bytes[..end]).is_err(), "cut at {end}");
    }
    assert!(Launch::decode(&mut &[0xff; 64][..]).is_err());
}

#[test]
fn a_guards_words_are_read_as_they_were_said() {
    for word in [
        GuardWord::Started { pid: 7 },
        GuardWord::Exit { code: 137 },
        GuardWord::Silence,
        GuardWord::Failed { errno: 2, what: "no such thing".to_owned() },
    ] {
        assert_eq!(GuardWord::parse(word.to_line().trim_end()), Some(word));
    }
    assert_eq!(GuardWord::parse("exit soon"), None);
}

#[test]
fn progress_is_the_newest_complete_line_and_nothing_else_counts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("progress");
    let mut progress = ProgressFile::new(path.clone());
    assert_eq!(progress.look(), None);
    std::fs::write(&path, "{\"percent\":1}\nno json\n{\"percent\":250,\"message\":\"a\\u0007b\"}\n[]\n{\"percent\":3").unwrap();
    assert_eq!(progress.look(), Some(JobNews::Progress { percent: Some(100), message: Some("ab".to_owned()) }));
    assert_eq!(progress.look(), None);
    let text = std::fs::read_to_string(&path).unwrap() + "}\n";
    std::fs::write(&path, text).unwrap();
    assert_eq!(progress.look(), Some(JobNews::Progress { percent: Some(3), message: None }));
}

#[test]
fn a_process_finds_itself() {
    let own = procfs::read(std::process::id() as i32).unwrap();
    assert!(own.is_alive() && own.start_time > 0);
    assert!(procfs::all().iter().any(|process| process.pid == own.pid && process.start_time == own.start_time));
    assert!(procfs::descendants(&procfs::all(), &[own.parent]).iter().any(|process| process.pid == own.pid));
}
