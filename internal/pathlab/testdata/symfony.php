<?php
// A front controller as Symfony's: php -S 127.0.0.1:PORT -t <a directory with this file as index.php>
require 'Symfony/Component/HttpFoundation/autoload.php';
require getenv('ROUTES');
// Web servers in front of PHP hand every path to the front controller and name it so.
$_SERVER['SCRIPT_NAME'] = getenv('SCRIPT') ?: '/index.php';
$_SERVER['SCRIPT_FILENAME'] = '/srv' . $_SERVER['SCRIPT_NAME'];
unset($_SERVER['PATH_INFO']);
// A web server hands an application in a directory the paths in there only.
if (getenv('SCRIPT') && strncmp(rawurldecode(parse_url('http://lab.test' . $_SERVER['REQUEST_URI'], PHP_URL_PATH)), dirname(getenv('SCRIPT')) . '/', strlen(dirname(getenv('SCRIPT'))) + 1)) exit('none');
$p = rawurldecode(Symfony\Component\HttpFoundation\Request::createFromGlobals()->getPathInfo());
if (getenv('SCRIPT')) $p = dirname(getenv('SCRIPT')) . $p;
if (getenv('LARAVEL')) $p = '/' . trim($p, '/');
echo handler($p);
