<?php
// The routes of all upstreams in PHP.
function handler($p) {
    $exact = ['/cargo/load' => 'load', '/v1/generate' => 'generate', '/health' => 'health'];
    if (isset($exact[$p])) return 'RAN ' . $exact[$p];
    if (preg_match('#^/cargo/[^/]+/tracking$#D', (string) $p)) return 'RAN tracking';
    foreach (['/v1/admin/' => 'admin', '/api/' => 'api', '/docs/' => 'docs', '/app/' => 'app'] as $below => $name) {
        if (strncmp((string) $p, $below, strlen($below)) === 0) return "RAN $name";
    }
    return 'none';
}
