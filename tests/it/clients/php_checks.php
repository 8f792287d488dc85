<?php
// What an application does with PHP: PDO, and the pgsql extension for what PDO does not offer; both stand on libpq.

const ROWS = 20_000;
const LARGE = 20_000_000;
const WAIT_SECONDS_MAX = 20;
// says that it runs before it sleeps: a cancel that comes before its query does nothing
const SLEEP = 'do $$ begin raise notice \'asleep\'; perform pg_sleep(60); end $$';

ini_set('memory_limit', '1G');
$port = $argv[1];
$encryptedAtServer = getenv('ENCRYPTED_AT_SERVER') === 'yes';

function session(array $options = []): PDO
{
    $source = sprintf('pgsql:host=%s;port=%s;dbname=%s', getenv('PGHOST'), getenv('PGPORT'), getenv('PGDATABASE'));
    return new PDO($source, getenv('PGUSER'), getenv('PGPASSWORD'), [PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION] + $options);
}

function expect(mixed $expected, mixed $seen, string $what = ''): void
{
    if ($expected !== $seen) {
        $shown = array_map(fn ($value) => substr(var_export($value, true), 0, 300), [$expected, $seen]);
        throw new Exception("$what expected {$shown[0]}, seen {$shown[1]}");
    }
}

function value(PDO $session, string $query, array $values = []): mixed
{
    $statement = $session->prepare($query);
    $statement->execute($values);
    return $statement->fetchColumn();
}

$checks = [
    'connect' => function () use ($port, $encryptedAtServer) {
        expect($port === 'read', value(session(), 'select pg_is_in_recovery()'), 'in recovery:');
        $encrypted = value(session(), 'select ssl from pg_stat_ssl where pid = pg_backend_pid()');
        expect($encryptedAtServer, $encrypted, 'encrypted:');
    },
    'query' => function () {
        $rows = session()->query('select n from generate_series(1, ' . ROWS . ') n')->fetchAll(PDO::FETCH_COLUMN);
        expect(range(1, ROWS), $rows);
    },
    'transaction' => function () {
        $session = session();
        $session->beginTransaction();
        $session->exec("set local application_name = 'inside'");
        $session->rollBack();
        expect('goes on', value($session, "select 'goes on'"));
    },
    'prepared' => function () {
        foreach ([false, true] as $emulated) {
            $statement = session([PDO::ATTR_EMULATE_PREPARES => $emulated])->prepare('select ?::int + 1');
            for ($number = 0; $number < 5; $number++) {
                $statement->execute([$number]);
                expect($number + 1, $statement->fetchColumn());
            }
        }
    },
    'copy-out' => function () {
        $session = session();
        $rows = $session->pgsqlCopyToArray('(select generate_series(1, ' . ROWS . '))');
        expect(ROWS, count($rows));
        expect('goes on', value($session, "select 'goes on'"));
    },
    'copy-in' => function () {
        $session = session();
        $session->exec('create temporary table bulk (number int, word text)');
        $session->pgsqlCopyFromArray('bulk', array_map(fn ($number) => "$number\tword $number\n", range(1, ROWS)));
        expect(ROWS, value($session, 'select count(*) from bulk'));
    },
    'listen-notify' => function () {
        $listener = session();
        $listener->exec('listen php_news');
        session()->exec("notify php_news, 'all is well'");
        $heard = $listener->pgsqlGetNotify(PDO::FETCH_ASSOC, WAIT_SECONDS_MAX * 1000);
        expect('all is well', $heard['payload'] ?? null);
    },
    'large' => function () {
        $text = bin2hex(random_bytes(LARGE / 2));
        expect(true, value(session(), 'select ?::text', [$text]) === $text, 'the same came back:');
    },
    'error' => function () {
        $session = session();
        try {
            $session->query('select 1 / 0');
            throw new Exception('nothing went wrong');
        } catch (PDOException $error) {
            expect('22012', $error->getCode());
        }
        expect('goes on', value($session, "select 'goes on'"));
    },
    'cancel' => function () {
        $session = pg_connect('', PGSQL_CONNECT_FORCE_NEW);
        pg_send_query($session, SLEEP);
        $deadline = microtime(true) + WAIT_SECONDS_MAX;
        while (pg_connection_busy($session) && !str_contains(pg_last_notice($session), 'asleep')) {
            expect(true, microtime(true) < $deadline, 'asleep in time:');
            usleep(2000);
        }
        pg_cancel_query($session);
        expect('goes on', pg_fetch_result(pg_query($session, "select 'goes on'"), 0));
        // it would have come after a minute's sleep otherwise
        expect(true, microtime(true) < $deadline, 'cancelled in time:');
    },
];

if ($port === 'read') {
    unset($checks['copy-in'], $checks['listen-notify']);
}
printf("1..%d\n", count($checks));
$number = $failed = 0;
foreach ($checks as $name => $check) {
    $number++;
    try {
        $check();
        echo "ok $number - $name\n";
    } catch (Throwable $error) {
        $failed++;
        echo "not ok $number - $name\n# ", str_replace("\n", "\n# ", substr((string) $error, 0, 2000)), "\n";
    }
}
exit($failed ? 1 : 0);
