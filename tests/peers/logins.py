# Argument: URL. Several clients log in there by NTLM at once, while others send requests without
# credentials. Prints how many responses were right for their client.
import sys
import threading

import requests
from requests_ntlm import HttpNtlmAuth

CLIENTS, LOGINS, STRANGERS = 6, 15, 3
url = sys.argv[1]
answers = []


def session():
    one = requests.Session()
    one.trust_env = False
    return one


def known(number):
    for _ in range(LOGINS):
        with session() as one:
            one.auth = HttpNtlmAuth(f"DOMAIN\\user{number}", f"password{number}")
            for _ in range(2):
                answer = one.get(url, timeout=60)
            user = answer.headers.get("X-User")
            right = (answer.status_code, user) == (200, f"DOMAIN\\user{number}")
            answers.append("right" if right else f"user{number} was {user}")


def stranger():
    for _ in range(LOGINS):
        with session() as one:
            for _ in range(2):
                status = one.get(url, timeout=60).status_code
                answers.append("refused" if status == 401 else f"a stranger got {status}")


threads = [threading.Thread(target=known, args=(number,)) for number in range(1, CLIENTS + 1)]
threads += [threading.Thread(target=stranger) for _ in range(STRANGERS)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(", ".join(f"{answer}: {answers.count(answer)}" for answer in sorted(set(answers))))
