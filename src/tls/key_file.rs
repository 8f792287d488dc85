//! Reads a private key, if no other user of the machine can read it too.

use std::fs::{self, Metadata};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::{self, PemObject};

use super::TlsError;

/// Permissions that a secret file must not give: any for group and others …
const NOT_OURS: u32 = 0o077;

/// … but root's own file may be readable by its group, of which pgvane's user is then a member.
const NOT_OF_ROOT: u32 = 0o037;

/// Reads a private key from a PEM file. Blocks.
///
/// Errors: the file cannot be read or holds no private key, or others than its owner can read it. The rule is
/// PostgreSQL's, for its own key and for libpq's (`check_ssl_key_file_permissions` in `be-secure-common.c`).
pub(super) fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let unreadable = |error| TlsError::Pem { file: file.to_owned(), wanted: "private key", error };
    let metadata = fs::metadata(file).map_err(|error| unreadable(pem::Error::Io(error)))?;
    if is_open_to_others(&metadata) {
        return Err(TlsError::KeyPermissions { file: file.to_owned(), mode: metadata.permissions().mode() & 0o7777 });
    }
    PrivateKeyDer::from_pem_file(file).map_err(unreadable)
}

/// Whether others than the file's owner can read it, or if root owns it, others than its owner and its group.
pub fn is_open_to_others(metadata: &Metadata) -> bool {
    let forbidden = if metadata.uid() == 0 { NOT_OF_ROOT } else { NOT_OURS };
    metadata.is_file() && metadata.permissions().mode() & forbidden != 0
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;

    use super::super::world::World;
    use super::*;

    #[test]
    fn a_key_that_others_can_read_is_refused_as_postgresql_does() {
        let world = World::new();
        let key = world.identity("pgvane", "localhost");
        let with_mode = |mode| {
            fs::set_permissions(&key.key_file, Permissions::from_mode(mode)).expect("is ours");
            private_key(&key.key_file).map(drop).map_err(|error| error.to_string())
        };
        for mode in [0o600, 0o400] {
            assert_eq!(with_mode(mode), Ok(()), "{mode:o}");
        }
        for mode in [0o644, 0o604, 0o660, 0o666, 0o610] {
            let refused = with_mode(mode).expect_err("others can read it");
            let found = format!("has mode {mode:04o}");
            assert!(refused.contains(&found) && refused.contains("chmod 0600"), "{refused}");
        }
        let is_root = fs::metadata(&key.key_file).expect("is there").uid() == 0;
        assert_eq!(with_mode(0o640).is_ok(), is_root, "a group may read a file that root owns");
    }
}
