"""Tells whether the machine runs on its battery, where idle work costs somebody's day."""

import psutil


def is_on_battery() -> bool:
    """Return whether there is a battery and no plug; False where nobody knows."""
    try:
        battery = psutil.sensors_battery()
    # Not every system has sensors, and what they raise is not documented.
    except Exception:  # noqa: BLE001
        return False
    return battery is not None and battery.power_plugged is False
