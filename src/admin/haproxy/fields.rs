//! The fields of HAProxy's statistics, in the order of its documentation (management.txt, section 9.1).
//!
//! These are the fields that HAProxy 2.6 and every later version have at the same place. Programs that read the CSV by
//! position rely on the order; HAProxy adds new fields at the end only.

use strum::{IntoStaticStr, VariantArray};

/// A field. Its number is its place in the CSV. docs/haproxy-outputs.md says what each means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, VariantArray, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
#[rustfmt::skip]
pub(super) enum Field {
    Pxname, Svname, Qcur, Qmax, Scur, Smax, Slim, Stot, Bin, Bout, Dreq, Dresp, Ereq, Econ, Eresp, Wretr, Wredis, Status,
    Weight, Act, Bck, Chkfail, Chkdown, Lastchg, Downtime, Qlimit, Pid, Iid, Sid, Throttle, Lbtot, Tracked, Type, Rate,
    RateLim, RateMax, CheckStatus, CheckCode, CheckDuration,
    #[strum(serialize = "hrsp_1xx")] Hrsp1xx,
    #[strum(serialize = "hrsp_2xx")] Hrsp2xx,
    #[strum(serialize = "hrsp_3xx")] Hrsp3xx,
    #[strum(serialize = "hrsp_4xx")] Hrsp4xx,
    #[strum(serialize = "hrsp_5xx")] Hrsp5xx,
    HrspOther, Hanafail, ReqRate, ReqRateMax, ReqTot, CliAbrt, SrvAbrt, CompIn, CompOut, CompByp, CompRsp, Lastsess,
    LastChk, LastAgt, Qtime, Ctime, Rtime, Ttime, AgentStatus, AgentCode, AgentDuration, CheckDesc, AgentDesc, CheckRise,
    CheckFall, CheckHealth, AgentRise, AgentFall, AgentHealth, Addr, Cookie, Mode, Algo, ConnRate, ConnRateMax, ConnTot,
    Intercepted, Dcon, Dses, Wrew, Connect, Reuse, CacheLookups, CacheHits, SrvIcur, SrcIlim, QtimeMax, CtimeMax,
    RtimeMax, TtimeMax, Eint, IdleConnCur, SafeConnCur, UsedConnCur, NeedConnEst, Uweight, AggServerStatus,
    AggServerCheckStatus, AggCheckStatus,
}

/// What HAProxy's JSON says about a field: where it comes from, what it is, and its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tags {
    /// `Key`, `Config`, `Status` or `Metric`.
    pub(super) origin: &'static str,
    /// `Gauge`, `Counter`, `Max`, …
    pub(super) nature: &'static str,
    /// `Service`: the same in every process. `Process`: of this process.
    pub(super) scope: &'static str,
    /// `str`, `u32`, `u64` or `s32`.
    pub(super) kind: &'static str,
}

impl Field {
    /// Its name in the first line of the CSV.
    pub(super) fn name(self) -> &'static str {
        self.into()
    }

    /// What HAProxy's JSON says about it.
    pub(super) fn tags(self) -> Tags {
        use Field as F;
        let (origin, nature, scope, kind) = match self {
            F::Pxname | F::Svname => ("Key", "Name", "Service", "str"),
            F::Pid => ("Key", "Gauge", "Process", "u32"),
            F::Iid | F::Sid => ("Key", "Gauge", "Service", "u32"),
            F::Status => ("Status", "Gauge", "Process", "str"),
            F::Type | F::CheckRise | F::CheckFall | F::CheckHealth => ("Config", "Gauge", "Service", "u32"),
            F::Mode | F::Addr | F::Algo => ("Config", "Gauge", "Service", "str"),
            F::Slim | F::RateLim => ("Config", "Limit", "Process", "u32"),
            F::CheckStatus | F::CheckDesc | F::LastChk => ("Metric", "Output", "Process", "str"),
            F::CheckCode => ("Metric", "Output", "Process", "u32"),
            F::CheckDuration => ("Metric", "Duration", "Process", "u64"),
            F::Lastchg => ("Metric", "Age", "Process", "u32"),
            F::Lastsess => ("Metric", "Age", "Process", "s32"),
            F::Weight | F::Uweight | F::Throttle | F::Qtime | F::Ctime | F::Rtime | F::Ttime => {
                ("Metric", "Avg", "Process", "u32")
            }
            F::Qmax | F::Smax | F::RateMax | F::ReqRateMax | F::ConnRateMax => ("Metric", "Max", "Process", "u32"),
            F::QtimeMax | F::CtimeMax | F::RtimeMax | F::TtimeMax => ("Metric", "Max", "Process", "u32"),
            F::Rate | F::ReqRate | F::ConnRate => ("Metric", "Rate", "Process", "u32"),
            F::Downtime => ("Metric", "Counter", "Process", "u32"),
            F::Qcur | F::Scur | F::Act | F::Bck | F::SrvIcur | F::SrcIlim => ("Metric", "Gauge", "Process", "u32"),
            F::IdleConnCur | F::SafeConnCur | F::UsedConnCur | F::NeedConnEst => ("Metric", "Gauge", "Process", "u32"),
            F::AggServerStatus | F::AggServerCheckStatus | F::AggCheckStatus => ("Metric", "Gauge", "Process", "u32"),
            _ => ("Metric", "Counter", "Process", "u64"),
        };
        Tags { origin, nature, scope, kind }
    }
}
