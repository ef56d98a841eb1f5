<?php
// An endless stream. Nothing in it knows of a gateway.
set_time_limit(0);
header('Content-Type: text/event-stream');
while (ob_get_level() > 0) {
    ob_end_flush(); // PHP's own buffer would hold events back
}
for (;;) {
    // The process says who it is, so that one can see how many there are.
    printf("data: {\"time\":%d,\"process\":%d}\n\n", (int) (microtime(true) * 5), getmypid());
    flush();
    usleep(200000);
}
