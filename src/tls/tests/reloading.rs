//! Certificates that are replaced while they are in use.

use std::fs;

use crate::tls::world::World;
use crate::tls::*;

/// A certificate for `name` in the place of pgvane's present one.
fn replace(world: &World, pgvane: &Terminate, name: &str) {
    let new = world.identity("new", name);
    fs::rename(new.cert_file, &pgvane.identity.cert_file).expect("is there");
    fs::rename(new.key_file, &pgvane.identity.key_file).expect("is there");
}

#[test]
fn a_new_certificate_is_taken_once_its_files_rest() {
    let world = World::new();
    let pgvane = world.terminate();
    let acceptor = Reloading::<Acceptor>::new(pgvane.clone()).expect("sound files");
    let names = || acceptor.load().certificate().names().to_vec();
    assert!(matches!(acceptor.look(false), Look::Unchanged));

    replace(&world, &pgvane, "db.example.org");
    assert!(matches!(acceptor.look(false), Look::Unchanged), "it may be half-written");
    assert!(matches!(acceptor.look(false), Look::Renewed));
    assert_eq!(names(), ["db.example.org"]);
    assert!(matches!(acceptor.look(false), Look::Unchanged));

    replace(&world, &pgvane, "db2.example.org");
    assert!(matches!(acceptor.look(true), Look::Renewed), "whoever asks for it has written all");
    assert_eq!(names(), ["db2.example.org"]);
    assert!(matches!(acceptor.look(false), Look::Unchanged));
}

#[test]
fn a_broken_certificate_is_told_once_and_the_old_one_kept() {
    let world = World::new();
    let pgvane = world.terminate();
    let acceptor = Reloading::<Acceptor>::new(pgvane.clone()).expect("sound files");
    let old = fs::read(&pgvane.identity.cert_file).expect("is there");

    for broken in [None, Some("-----BEGIN CERTIFICATE-----\n")] {
        match broken {
            None => fs::remove_file(&pgvane.identity.cert_file).expect("is there"),
            Some(text) => fs::write(&pgvane.identity.cert_file, text).expect("is written"),
        }
        assert!(matches!(acceptor.look(false), Look::Unchanged));
        assert!(matches!(acceptor.look(false), Look::Failed(TlsError::Pem { .. })));
        assert!(matches!(acceptor.look(false), Look::Unchanged), "said once");
        assert_eq!(acceptor.load().certificate().names(), ["localhost"]);
    }
    fs::write(&pgvane.identity.cert_file, old).expect("is written");
    assert!(matches!(acceptor.look(false), Look::Unchanged));
    assert!(matches!(acceptor.look(false), Look::Renewed));
}

#[test]
fn settings_without_files_are_never_looked_at() {
    let plain = Reloading::<ServerTls>::new(TlsSettings::of_mode(SslMode::Disable)).expect("no files");
    assert!(matches!(plain.look(true), Look::Unchanged));
}
