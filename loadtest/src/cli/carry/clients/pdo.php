<?php
// Long sessions of PDO, with state of their own: pdo.php FIRST COUNT. One works at a time, the others are idle. See python.py.
const STATE = "select concat_ws('|', current_setting('work_mem'), current_setting('application_name'),
    current_setting('app.tenant', true), current_user)";
[, $first, $count] = array_map('intval', array_merge([0], array_slice($argv, 1)));
$requests = 0;
stream_set_blocking(STDIN, false);

function tell(int $number, string $what): void { echo str_replace("\n", ' ', "pdo $number: $what"), "\n"; }

try {
    $sessions = [];
    for ($number = $first; $number < $first + $count; $number++) {
        $session = new PDO('pgsql:', null, null, [PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION]);
        $session->exec("set work_mem = '" . (2048 + $number) . "kB'; set app.tenant = 'tenant $number'");
        if ($number % 2) { $session->exec('set role carried'); }
        $expected = (int) $session->query("select n from counters where id = $number")->fetchColumn();
        $counts = $session->prepare('update counters set n = n + 1 where id = ? returning n');
        $sessions[$number] = [$session, $counts, $expected, $session->query(STATE)->fetchColumn()];
    }
    while (!feof(STDIN)) {
        fread(STDIN, 100);
        foreach ($sessions as $number => [$session, $counts, $expected, $own]) {
            $session->beginTransaction();
            $counts->execute([$number]);
            $counted = (int) $counts->fetchColumn();
            $session->commit();
            $sessions[$number][2] = ++$expected;
            $state = $session->query(STATE)->fetchColumn();
            $requests++;
            if ($counted !== $expected) { tell($number, "wrong: its counter is $counted, not $expected"); }
            if ($state !== $own) { tell($number, "wrong: its state is $state, not $own"); }
            usleep(random_int(50000, 150000));
        }
    }
} catch (PDOException $error) {
    tell(0, 'error: ' . $error->getMessage());
}
echo "requests $requests\n";
