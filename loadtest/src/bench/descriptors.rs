//! The number of file descriptors that this process, and the proxies that it starts, may have.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::Result;
use crate::error::Doing;

/// Raises the soft limit to the hard limit, and returns the limit in force.
pub fn raise_limit() -> Result<usize> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
        raised.map_err(Into::into).doing(|| "raising the limit of file descriptors".to_owned())?;
    }
    let current = getrlimit(Resource::Nofile).current;
    Ok(current.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX)))
}
