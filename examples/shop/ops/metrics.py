"""metrics.py [--hold S]: the services answer without errors, for as long as one looks."""
import argparse
import re
import time

import place

EVERY = 0.25


def requests(service):
    """(all, server errors) that this process of the service has answered."""
    code, text = place.ask(f"{place.public_url(service)}/metrics")
    if code != 200:
        place.fail(f"{service} has no metrics: {text}")
    counts = [(int(status), int(count)) for status, count in re.findall(r'shop_requests_total\{code="(\d+)"\} (\d+)', text)]
    return sum(count for _, count in counts), sum(count for status, count in counts if status >= 500)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--hold", type=float, default=1.0)
    end = time.monotonic() + parser.parse_args().hold
    while True:
        seen = {service: requests(service) for service in place.SERVICE_NAMES}
        for service, (total, errors) in seen.items():
            place.say(f"{service}: {total} requests, {errors} errors")
            if errors:
                place.fail(f"{service} has answered {errors} of {total} requests with an error")
        if time.monotonic() >= end:
            break
        time.sleep(EVERY)
    place.output(requests=sum(total for total, _ in seen.values()), errors=0)


if __name__ == "__main__":
    main()
