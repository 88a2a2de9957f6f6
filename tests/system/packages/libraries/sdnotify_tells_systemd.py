"""sdnotify: systemd itself takes the notice of a service of type notify."""

import sys
import time

import sdnotify

notifier = sdnotify.SystemdNotifier(debug=True)
notifier.notify("STATUS=told by sdnotify")
notifier.notify("READY=1")
while "stay" in sys.argv:
    notifier.notify("WATCHDOG=1")
    time.sleep(1)
