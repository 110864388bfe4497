"""The search page of samples/edge-service as it is used: questions over HTTP, hostile ones too, and in a browser where there is one.

    python3 tests/serving/test_search_page.py --service PROGRAM --folder samples/data
"""

import argparse
import json
import shutil
import signal
import subprocess
import tempfile
import urllib.error
import urllib.parse
import urllib.request

BROWSERS = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"]
# A question in words of its own, and the line that answers it.
QUESTIONS = {
    "a young cat asleep in the sun": "A kitten naps in the sunshine by the window.",
    "someone is at the door and the hound makes noise": "Our dog barks whenever somebody rings the doorbell.",
}


def get(url):
    """Status and body."""
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def search(url, **parameters):
    status, body = get(f"{url}/search?{urllib.parse.urlencode(parameters)}")
    return status, json.loads(body) if body.startswith("{") else body


def check_answers(url):
    for question, expected in QUESTIONS.items():
        status, answer = search(url, q=question, count=3)
        found = [n["text"] for n in answer["neighbours"]]
        cosines = [n["cosine"] for n in answer["neighbours"]]
        assert status == 200 and found[0] == expected and len(found) == 3, (question, answer)
        assert cosines == sorted(cosines, reverse=True) and all(-1.001 <= c <= 1.001 for c in cosines), cosines
        assert answer["passages"] > 500 and answer["microseconds"]["plan"] > 0, answer
    for refused in [{"q": ""}, {"q": "x" * 5000}, {}, {"q": "cat", "count": "-1"}]:
        status, answer = search(url, **refused)
        assert status == 400, (refused, status, answer)
    # What is no text of a language is answered too.
    for odd in ["\0", "😀" * 900, "<script>alert(1)</script>", "%%%"]:
        status, answer = search(url, q=odd)
        assert status == 200 and len(answer["neighbours"]) == 5, (odd, status, answer)


def check_page(url):
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        print(f"skipped: the page in a browser, since there is none of {', '.join(BROWSERS)}")
        return
    for question, expected in [*QUESTIONS.items(), ("<img src=x onerror=alert(1)>", None)]:
        page = f"{url}/?{urllib.parse.urlencode({'q': question})}"
        with tempfile.TemporaryDirectory() as profile:
            command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", "--virtual-time-budget=20000", "--dump-dom", page]
            dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
        assert dom.count("<li>") == 5 and "<meter" in dom and "plan " in dom, dom
        assert expected is None or dom.index(expected) == min(dom.index(line) for line in QUESTIONS.values() if line in dom), dom
        assert "<img" not in dom, dom
    print(f"the page shows what is found in {browser}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--service", required=True)
    parser.add_argument("--folder", required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as empty:
        refused = subprocess.run([options.service, empty], capture_output=True, text=True, timeout=60, check=False)
        assert refused.returncode == 1 and "has no text" in refused.stderr, refused
    command = [options.service, options.folder, "--address", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
        try:
            url = service.stdout.readline().strip()
            assert url.startswith("http://"), url
            check_answers(url)
            check_page(url)
            service.send_signal(signal.SIGINT)
            assert service.wait(timeout=20) == 0
        finally:
            service.kill()
    print("the search page answers")


if __name__ == "__main__":
    main()
