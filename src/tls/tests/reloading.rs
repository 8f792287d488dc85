//! Certificates are replaced while they are in use.

use std::fs;

use crate::tls::world::World;
use crate::tls::*;

/// Replaces pgvane's certificate with one for `name`.
fn replace(world: &World, pgvane: &Terminate, name: &str) {
    let new = world.identity("new", name);
    fs::rename(new.cert_file, &pgvane.identity.cert_file).expect("is there");
    fs::rename(new.key_file, &pgvane.identity.key_file).expect("is there");
}

#[test]
fn a_new_certificate_is_loaded_once_its_files_stop_changing() {
    let world = World::new();
    let pgvane = world.terminate();
    let acceptor = Reloading::<Acceptor>::new(pgvane.clone()).expect("sound files");
    let names = || acceptor.load().certificate().names().to_vec();
    assert!(matches!(acceptor.check(false), FileCheck::Unchanged));

    replace(&world, &pgvane, "db.example.org");
    assert!(matches!(acceptor.check(false), FileCheck::Unchanged), "it may be half-written");
    assert!(matches!(acceptor.check(false), FileCheck::Reloaded));
    assert_eq!(names(), ["db.example.org"]);
    assert!(matches!(acceptor.check(false), FileCheck::Unchanged));

    replace(&world, &pgvane, "db2.example.org");
    assert!(matches!(acceptor.check(true), FileCheck::Reloaded), "the files are complete when a reload is requested");
    assert_eq!(names(), ["db2.example.org"]);
    assert!(matches!(acceptor.check(false), FileCheck::Unchanged));
}

#[test]
fn a_broken_certificate_is_reported_once_and_the_old_one_stays_in_use() {
    let world = World::new();
    let pgvane = world.terminate();
    let acceptor = Reloading::<Acceptor>::new(pgvane.clone()).expect("sound files");
    let old = fs::read(&pgvane.identity.cert_file).expect("is there");

    for broken in [None, Some("-----BEGIN CERTIFICATE-----\n")] {
        match broken {
            None => fs::remove_file(&pgvane.identity.cert_file).expect("is there"),
            Some(text) => fs::write(&pgvane.identity.cert_file, text).expect("is written"),
        }
        assert!(matches!(acceptor.check(false), FileCheck::Unchanged));
        assert!(matches!(acceptor.check(false), FileCheck::Failed(TlsError::Pem { .. })));
        assert!(matches!(acceptor.check(false), FileCheck::Unchanged), "reported once");
        assert_eq!(acceptor.load().certificate().names(), ["localhost"]);
    }
    fs::write(&pgvane.identity.cert_file, old).expect("is written");
    assert!(matches!(acceptor.check(false), FileCheck::Unchanged));
    assert!(matches!(acceptor.check(false), FileCheck::Reloaded));
}

#[test]
fn settings_without_files_never_change() {
    let plain = Reloading::<ServerTls>::new(TlsSettings::of_mode(SslMode::Disable)).expect("no files");
    assert!(matches!(plain.check(true), FileCheck::Unchanged));
}
