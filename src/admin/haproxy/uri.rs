//! What a URL asks of the statistics. HAProxy takes options behind the path, each after a semicolon: `/stats;csv;up`.

use axum::http::Uri;

use super::rows::Filter;

/// Paths at which the statistics are always served.
const PATHS: [&str; 2] = ["/", "/stats"];

/// What a request wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::admin) enum Wanted {
    /// The stats page.
    Page,
    /// HAProxy's CSV.
    Csv(Filter),
    /// HAProxy's JSON.
    Json(Filter),
}

/// What this URL wants; `None` if it is not one of the statistics. `own` is the URL that the operator has configured,
/// such as `/haproxy?stats`.
pub(in crate::admin) fn wanted(uri: &Uri, own: Option<&str>) -> Option<Wanted> {
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let given = format!("{}{query}", uri.path());
    let (place, options) = given.split_once(';').unwrap_or((&given, ""));
    if own != Some(place) {
        // for a browser's address a query is not a part of the page's name
        let path = place.split('?').next().unwrap_or_default();
        let path = if path.len() > 1 { path.trim_end_matches('/') } else { path };
        PATHS.contains(&path).then_some(())?;
    }
    let has = |option: &str| options.split(';').any(|one| one == option);
    let filter = Filter { hides_down: has("up"), hides_maint: has("no-maint") };
    Some(match options {
        _ if has("csv") => Wanted::Csv(filter),
        _ if has("json") => Wanted::Json(filter),
        _ => Wanted::Page,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(uri: &str) -> Option<Wanted> {
        wanted(&uri.parse().expect("a URI"), Some("/haproxy?stats"))
    }

    #[test]
    fn options_follow_every_path_of_the_statistics_after_semicolons() {
        let all = Filter::default();
        for csv in ["/;csv", "/stats;csv", "/stats/;csv", "/;csv;norefresh", "/;norefresh;csv", "/haproxy?stats;csv"] {
            assert_eq!(asked(csv), Some(Wanted::Csv(all)), "{csv}");
        }
        assert_eq!(asked("/stats;json"), Some(Wanted::Json(all)));
        let filter = Filter { hides_down: true, hides_maint: true };
        assert_eq!(asked("/stats;no-maint;up;csv"), Some(Wanted::Csv(filter)));
        for page in ["/", "/stats", "/stats?refresh=5", "/stats;norefresh", "/haproxy?stats", "/haproxy?stats;up"] {
            assert_eq!(asked(page), Some(Wanted::Page), "{page}");
        }
        for other in ["/haproxy", "/other;csv", "/metrics;csv", "/haproxy?other;csv", "/stats2;csv"] {
            assert_eq!(asked(other), None, "{other}");
        }
    }
}
