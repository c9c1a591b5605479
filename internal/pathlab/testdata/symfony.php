<?php
// A front controller like Symfony's: php -S 127.0.0.1:PORT -t <a directory with this file as index.php>
require 'Symfony/Component/HttpFoundation/autoload.php';
require getenv('ROUTES');
// A web server in front of PHP passes every path to the front controller, and sets its name in these variables.
$_SERVER['SCRIPT_NAME'] = getenv('SCRIPT') ?: '/index.php';
$_SERVER['SCRIPT_FILENAME'] = '/srv' . $_SERVER['SCRIPT_NAME'];
unset($_SERVER['PATH_INFO']);
// For an application in a directory, the web server only passes on the paths in that directory.
if (getenv('SCRIPT') && strncmp(rawurldecode(parse_url('http://lab.test' . $_SERVER['REQUEST_URI'], PHP_URL_PATH)), dirname(getenv('SCRIPT')) . '/', strlen(dirname(getenv('SCRIPT'))) + 1)) exit('none');
$p = rawurldecode(Symfony\Component\HttpFoundation\Request::createFromGlobals()->getPathInfo());
if (getenv('SCRIPT')) $p = dirname(getenv('SCRIPT')) . $p;
if (getenv('LARAVEL')) $p = '/' . trim($p, '/');
echo handler($p);
