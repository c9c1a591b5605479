<?php
// An upstream that routes by PATH_INFO: php -S 127.0.0.1:PORT -t <a directory with this file as index.php and x.php>
require getenv('ROUTES');
echo handler($_SERVER['PATH_INFO'] ?? '/');
