<?php
// An upstream that routes by parse_url: php -S 127.0.0.1:PORT parse_url.php
require __DIR__ . '/routes.php';
$p = parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH);
echo handler(getenv('DECODE') ? rawurldecode((string) $p) : $p);
