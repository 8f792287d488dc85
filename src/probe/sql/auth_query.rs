//! Asks a server for the verifiers of roles, by a query that operators have written for that (`carry_auth_query`; PgBouncer
//! calls it `auth_query`). It is asked over a connection of its own, which is closed after it.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::access::Access;
use super::session::{Session, log_in};
use crate::cluster::Member;
use crate::config::{self, Check, Sql};
use crate::net::Resolver;
use crate::tls::TlsError;

/// What the query has given for each role: its text, `None` without a row or for NULL, or the server's error.
pub type Verifiers = Vec<(String, Result<Option<Zeroizing<String>>, String>)>;

/// How to ask for verifiers.
#[derive(Debug)]
pub struct AuthQuery {
    access: Access,
    text: String,
}

impl AuthQuery {
    /// The query of a cluster, if it has one. Errors: files for TLS that cannot be used.
    pub fn of(cluster: &config::Cluster, names: Arc<Resolver>) -> Result<Option<AuthQuery>, TlsError> {
        let query = cluster.carry.as_ref().and_then(|carry| carry.auth_query.as_ref());
        let (Some(query), Check::Sql(sql) | Check::Patroni { second_opinion: Some(sql) }) = (query, &cluster.check)
        else {
            return Ok(None);
        };
        let database = query.database.as_ref().unwrap_or(&sql.database).clone();
        let access = Access::new(&Sql { database, ..sql.clone() }, cluster, names)?;
        Ok(Some(AuthQuery { access, text: query.text.clone() }))
    }

    /// Asks this node for the verifiers of these roles. Errors: it cannot be asked, as a part of a sentence.
    ///
    /// Cancel safe; the connection is closed then.
    pub async fn verifiers(&self, member: &Arc<Member>, roles: &[String]) -> Result<Verifiers, String> {
        let session = log_in(self.access.clone(), Arc::clone(member)).await;
        let session = session.map_err(|failure| format!("{}: {}", member.name, failure.into_check_error()))?;
        let mut verifiers = Vec::with_capacity(roles.len());
        for role in roles {
            verifiers.push((role.clone(), self.verifier(&session, role).await));
        }
        Ok(verifiers)
    }

    async fn verifier(&self, session: &Session, role: &str) -> Result<Option<Zeroizing<String>>, String> {
        let rows = session.rows(&self.text, role).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        // as PgBouncer's query: the name and the password; or the password alone
        let column = row.len().saturating_sub(1).min(1);
        let verifier: Option<String> =
            row.try_get(column).map_err(|error| format!("column {}: {error}", column + 1))?;
        Ok(verifier.map(Zeroizing::new))
    }
}
