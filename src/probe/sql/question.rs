//! What PostgreSQL is asked, and how its one row is read.

use std::time::Duration;

use tokio_postgres::SimpleQueryRow;

use crate::cluster::node::{Claim, Lsn, Report};

/// How much is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    /// Everything; needs functions that PostgreSQL opens to PUBLIC and administrators sometimes close.
    Whole,
    /// The role and the positions, which no administrator closes.
    Bare,
}

/// Whether the server is in recovery is asked once and first: it can end between two calls, but never begin, so what
/// is asked of a primary does not fail for its having become a replica. `offset 0` keeps the planner from asking again.
///
/// - The insertion's timeline, by the name of its WAL file, because `pg_control_checkpoint()` shows a promotion only
///   after the next checkpoint.
/// - `cluster_name` is Patroni's scope: Patroni starts every PostgreSQL with it.
const WHOLE: &str = "\
select r.in_recovery,
  case when r.in_recovery then pg_last_wal_replay_lsn() else pg_current_wal_flush_lsn() end - '0/0' as position,
  case when r.in_recovery then pg_last_wal_receive_lsn() - '0/0' end as received,
  extract(epoch from now() - pg_last_xact_replay_timestamp()) as replay_delay,
  current_setting('server_version_num') as server_version,
  current_setting('cluster_name') as scope,
  case when r.in_recovery
    then coalesce(w.received_tli,
      greatest((select timeline_id from pg_control_checkpoint()),
        (select min_recovery_end_timeline from pg_control_recovery())))
    else ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int end as timeline,
  (select system_identifier from pg_control_system()) as system_identifier,
  w.pid as receiver, w.status as receiver_status
from (select pg_is_in_recovery() as in_recovery offset 0) r left join pg_stat_wal_receiver w on r.in_recovery";

const BARE: &str = "\
select r.in_recovery,
  case when r.in_recovery then pg_last_wal_replay_lsn() else pg_current_wal_flush_lsn() end - '0/0' as position,
  case when r.in_recovery then pg_last_wal_receive_lsn() - '0/0' end as received,
  null as replay_delay,
  current_setting('server_version_num') as server_version,
  current_setting('cluster_name') as scope,
  null as timeline, null as system_identifier, null as receiver, null as receiver_status
from (select pg_is_in_recovery() as in_recovery offset 0) r";

impl Question {
    /// The statement; one row answers it.
    pub(super) fn text(self) -> &'static str {
        match self {
            Question::Whole => WHOLE,
            Question::Bare => BARE,
        }
    }
}

/// Reads the row. The error says what is missing from it.
pub(super) fn report(row: &SimpleQueryRow) -> Result<Report, String> {
    // a column that is not there at all reads as null: the statement above has them all
    read(|column| row.try_get(column).ok().flatten())
}

fn read<'row>(column: impl Fn(&str) -> Option<&'row str>) -> Result<Report, String> {
    let claim = match column("in_recovery") {
        Some("t") => Claim::Replica,
        Some("f") => Claim::Leader,
        other => return Err(format!("pg_is_in_recovery() is {other:?}")),
    };
    let number = |name| column(name).and_then(|text| text.parse::<u64>().ok());
    let small = |name| number(name).and_then(|number| u32::try_from(number).ok());
    let replay_delay = column("replay_delay").and_then(|text| text.parse::<f64>().ok());
    // clocks that disagree make it negative
    let replay_delay = replay_delay.and_then(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).ok());
    let receiver_state = match (column("receiver_status"), column("receiver")) {
        (Some(status), _) => Some(status),
        // it is there, and what it does is for members of pg_monitor to see
        (None, Some(_pid)) => Some("receiving"),
        (None, None) => None,
    };
    Ok(Report {
        timeline: small("timeline").filter(|timeline| *timeline > 0),
        position: number("position").map(Lsn),
        received: number("received").map(Lsn),
        replay_delay,
        replication_state: receiver_state.map(str::to_owned),
        scope: column("scope").filter(|scope| !scope.is_empty()).map(str::to_owned),
        system_identifier: column("system_identifier").map(str::to_owned),
        server_version: small("server_version"),
        ..Report::bare(claim, "running")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(columns: &'static [(&'static str, &'static str)]) -> Result<Report, String> {
        read(|wanted| columns.iter().find(|(name, _)| *name == wanted).map(|(_, value)| *value))
    }

    #[test]
    fn all_of_a_primarys_row_is_read() {
        let report = answer(&[
            ("in_recovery", "f"),
            ("position", "67110128"),
            ("server_version", "150018"),
            ("scope", "demo"),
            ("timeline", "3"),
            ("system_identifier", "7574897023459823469"),
        ])
        .expect("is a row");
        assert_eq!((report.claim, report.state.as_str()), (Claim::Leader, "running"));
        assert_eq!((report.timeline, report.position), (Some(3), Some(Lsn(67_110_128))));
        assert_eq!(report.scope.as_deref(), Some("demo"));
        assert_eq!(report.system_identifier.as_deref(), Some("7574897023459823469"));
        assert_eq!((report.replication_state, report.replay_delay), (None, None));
    }

    #[test]
    fn a_replicas_row_is_read_with_and_without_pg_monitor() {
        let report = answer(&[("in_recovery", "t"), ("receiver", "77"), ("receiver_status", "streaming")]);
        assert_eq!(report.expect("is a row").replication_state.as_deref(), Some("streaming"));
        let hidden = answer(&[
            ("in_recovery", "t"),
            ("position", "100"),
            ("received", "128"),
            ("replay_delay", "2.5"),
            ("receiver", "77"),
            ("timeline", "0"),
        ]);
        let report = hidden.expect("is a row");
        assert_eq!(report.claim, Claim::Replica);
        assert_eq!((report.position, report.received), (Some(Lsn(100)), Some(Lsn(128))));
        assert_eq!(report.replay_delay, Some(Duration::from_millis(2500)));
        assert_eq!((report.replication_state.as_deref(), report.timeline), (Some("receiving"), None));
    }

    #[test]
    fn clocks_that_disagree_are_no_lag() {
        let ahead = answer(&[("in_recovery", "t"), ("replay_delay", "-0.25")]).expect("is a row");
        assert_eq!(ahead.replay_delay, Some(Duration::ZERO));
    }

    #[test]
    fn a_row_without_a_role_is_no_answer() {
        assert!(answer(&[("position", "1")]).is_err());
    }
}
