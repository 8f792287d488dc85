<?php
// An application in PHP: writes one row after another, connects again after an error, and tells the time of each.
// Arguments: DSN, user, password. The table is made first. Ends when it is killed.

[, $dsn, $user, $password] = $argv;

$tell = function (string $what) {
    printf("%.3f %s\n", hrtime(true) / 1e9, str_replace("\n", ' ', $what));
};
$session = null;
$is_made = false;
for ($id = 1; ; $id++) { // never the same number twice: a row whose insert failed may have been written
    try {
        // PHP's own timeout for a connection, 30 s, stays as it is
        $session ??= new PDO($dsn, $user, $password, [PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION]);
        if (!$is_made) {
            $session->exec('create table if not exists rows_written (id int)');
            $is_made = true;
        }
        $session->exec("insert into rows_written values ($id)");
        $tell("wrote $id");
        usleep(20000);
    } catch (PDOException $error) {
        $session = null;
        $tell('failed ' . $error->getMessage());
        usleep(20000);
    }
}
