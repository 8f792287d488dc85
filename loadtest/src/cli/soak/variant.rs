//! The variant of a run: the versions of PostgreSQL and Patroni, the clients' TLS, and the poolers.

use std::fmt;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use pgvane_loadtest::Result;
use pgvane_loadtest::lab::{Lab, LabBuilder, Node};
use pgvane_loadtest::pgbouncer::{Pgbouncer, PoolMode};
use pgvane_loadtest::pgvane::PgvaneBuilder;
use pgvane_loadtest::programs::{Patroni, Postgresql};

use super::plan::Kind;

/// The parts that are set on the command line; the seed chooses the others.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Forced {
    /// PostgreSQL's version; 15 is the one of Debian's packages. The seed chooses it if this is not set
    #[arg(long, value_name = "VERSION")]
    postgres: Option<PostgresVersion>,
    /// Patroni's version. The seed chooses it if this is not set
    #[arg(long, value_name = "VERSION")]
    patroni: Option<PatroniVersion>,
    /// TLS of the clients. The seed chooses it if this is not set
    #[arg(long, value_name = "MODE")]
    tls: Option<Tls>,
    /// PgBouncer beside each node, and what it pools. The seed chooses it if this is not set
    #[arg(long, value_name = "MODE", num_args = 0..=1, default_missing_value = "session")]
    pooler: Option<Pooler>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum)]
enum PostgresVersion {
    #[value(name = "15")]
    Fifteen,
    #[value(name = "18")]
    Eighteen,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum)]
enum PatroniVersion {
    #[value(name = "3.3")]
    ThreeThree,
    #[value(name = "4.1")]
    FourOne,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum)]
enum Tls {
    /// no TLS
    Plain,
    /// from the client to the node
    Passthrough,
    /// from the client to pgvane
    Terminate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum)]
enum Pooler {
    None,
    Session,
    Transaction,
}

/// The choice for one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Variant {
    postgres: PostgresVersion,
    patroni: PatroniVersion,
    tls: Tls,
    pooler: Pooler,
}

impl Variant {
    /// In chaos, 36 seeds in a row have all 36 variants; three in a row have each version and each kind of TLS. A soak has
    /// no poolers: they hide what its clients check.
    pub(super) fn new(kind: Kind, seed: u64, forced: Forced) -> Variant {
        let (pair, triple) = (seed / 2 % 2, seed.wrapping_sub(1) % 9);
        let postgres = if seed % 2 == 1 { PostgresVersion::Fifteen } else { PostgresVersion::Eighteen };
        let patroni = if pair == 0 { PatroniVersion::FourOne } else { PatroniVersion::ThreeThree };
        let tls = match triple % 3 {
            0 => Tls::Plain,
            1 => Tls::Passthrough,
            _ => Tls::Terminate,
        };
        let pooler = match (triple + triple / 3) % 3 {
            0 => Pooler::None,
            1 => Pooler::Session,
            _ => Pooler::Transaction,
        };
        Variant {
            postgres: forced.postgres.unwrap_or(postgres),
            patroni: forced.patroni.unwrap_or(patroni),
            tls: forced.tls.unwrap_or(tls),
            pooler: if kind == Kind::Soak { Pooler::None } else { forced.pooler.unwrap_or(pooler) },
        }
    }

    /// A lab of these versions.
    pub(super) fn lab(self) -> LabBuilder {
        let lab = Lab::builder()
            .postgresql(match self.postgres {
                PostgresVersion::Fifteen => Postgresql::Packaged,
                PostgresVersion::Eighteen => Postgresql::Eighteen,
            })
            .patroni(match self.patroni {
                PatroniVersion::ThreeThree => Patroni::ThreeThree,
                PatroniVersion::FourOne => Patroni::Newest,
            });
        match self.tls {
            Tls::Passthrough => lab.tls(),
            Tls::Plain | Tls::Terminate => lab,
        }
    }

    /// The poolers, one for each node, or none.
    pub(super) async fn poolers(self, lab: &Lab) -> Result<Vec<Pgbouncer>> {
        let mode = match self.pooler {
            Pooler::None => return Ok(Vec::new()),
            Pooler::Session => PoolMode::Session,
            Pooler::Transaction => PoolMode::Transaction,
        };
        let mut poolers = Vec::new();
        for node in 0..lab.nodes().len() {
            poolers.push(Pgbouncer::start(lab, node, mode, self.tls == Tls::Passthrough).await?);
        }
        Ok(poolers)
    }

    /// `pgvane` with the TLS of this variant, and the files of its certificate and key if it has one.
    pub(super) fn with_tls(self, pgvane: PgvaneBuilder, lab: &Lab) -> Result<(PgvaneBuilder, Option<[PathBuf; 2]>)> {
        if !self.ends_tls_at_pgvane() {
            return Ok((pgvane, None));
        }
        let files = lab.make_certificate("pgvane")?;
        let [certificate, key] = files.each_ref().map(|file| file.display());
        let tls = format!("tls = {{ mode = \"terminate\", cert_file = \"{certificate}\", key_file = \"{key}\" }}");
        Ok((pgvane.write_listener(&tls).read_listener(&tls), Some(files)))
    }

    /// Whether the clients' TLS ends at pgvane: it has a certificate then, and an upgrade does not move their sessions.
    pub(super) fn ends_tls_at_pgvane(self) -> bool {
        self.tls == Tls::Terminate
    }

    /// Whether pgvane cannot read the sessions.
    pub(super) fn passes_tls_through(self) -> bool {
        self.tls == Tls::Passthrough
    }

    /// Whether the clients use TLS.
    pub(super) fn clients_use_tls(self) -> bool {
        self.tls != Tls::Plain
    }

    /// The nodes as pgvane sees them.
    pub(super) fn nodes(lab: &Lab, poolers: &[Pgbouncer]) -> Vec<Node> {
        match poolers {
            [] => lab.nodes().to_vec(),
            poolers => poolers.iter().map(|pooler| pooler.node().clone()).collect(),
        }
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tls = match self.tls {
            Tls::Plain => "no TLS",
            Tls::Passthrough => "TLS passed through",
            Tls::Terminate => "TLS terminated at pgvane",
        };
        let pooler = match self.pooler {
            Pooler::None => "no pooler",
            Pooler::Session => "PgBouncer beside each node (pools sessions)",
            Pooler::Transaction => "PgBouncer beside each node (pools transactions)",
        };
        write!(f, "{tls}; {pooler}")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn three_seeds_have_each_version_and_each_tls_and_36_have_all_variants() {
        let nothing = Forced { postgres: None, patroni: None, tls: None, pooler: None };
        let variant = |seed| Variant::new(Kind::Chaos, seed, nothing);
        for first in 1..40 {
            let three: Vec<Variant> = (first..first + 3).map(variant).collect();
            assert_eq!(three.iter().map(|variant| variant.postgres).collect::<HashSet<_>>().len(), 2);
            assert_eq!(three.iter().map(|variant| variant.patroni).collect::<HashSet<_>>().len(), 2);
            assert_eq!(three.iter().map(|variant| variant.tls).collect::<HashSet<_>>().len(), 3);
            assert!(three.iter().any(|variant| variant.pooler != Pooler::None));
            assert_eq!((first..first + 36).map(variant).collect::<HashSet<_>>().len(), 36);
        }
        let forced = Forced { tls: Some(Tls::Terminate), ..nothing };
        assert_eq!(Variant::new(Kind::Chaos, 1, forced).tls, Tls::Terminate);
        assert_eq!(Variant::new(Kind::Chaos, 1, forced).postgres, variant(1).postgres);
        assert!((1..40).all(|seed| Variant::new(Kind::Soak, seed, forced).pooler == Pooler::None));
    }
}
