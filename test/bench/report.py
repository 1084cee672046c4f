"""Figures as text and as Markdown."""
import json
import os
import statistics

FORMAT = 1  # of the JSON files: what was written in another one is not read

HEADER = '''| measured | contestant | median | smallest – largest | against | ratio | smallest – largest | target | |
|---|---|--:|--:|---|--:|--:|---|---|
'''


def number_text(value):
    if abs(value) >= 1000:
        return f'{value:,.0f}'
    return f'{value:.3g}' if abs(value) < 10 else f'{value:.1f}'


def metrics_text(result, unit):
    return ', '.join(f'{metric} {number_text(value)}'.strip() for metric, value in result.items()) + f' {unit}'


def verdict(ratio):
    return {True: 'met', False: '**missed**', None: ''}[ratio['met']]


def ratio_text(ratio):
    name = f'{ratio["contestant"]} {ratio["metric"]}'.strip()
    target = f', target {ratio["target"]}: {verdict(ratio).strip("*")}' if ratio['target'] else ''
    return (f'{name} / {ratio["against"]} = {ratio["median"]:.2f} '
            f'({ratio["min"]:.2f} – {ratio["max"]:.2f}){target}')


def measurement_rows(measurement):
    """A row per contestant and metric; if it has several ratios, a row for each more."""
    for name, metrics in measurement['values'].items():
        for metric, values in metrics.items():
            ratios = [r for r in measurement['ratios'] if (r['contestant'], r['metric']) == (name, metric)]
            spread = f'{number_text(min(values))} – {number_text(max(values))}' if len(values) > 1 else ''
            cells = [f'{measurement["title"]}, {measurement["unit"]}', f'{name} {metric}'.strip(),
                     number_text(statistics.median(values)), spread]
            for ratio in ratios or [None]:
                yield cells + ([ratio['against'], f'{ratio["median"]:.2f}', f'{ratio["min"]:.2f} – {ratio["max"]:.2f}',
                                ratio['target'] or '', verdict(ratio)] if ratio else [''] * 5)
                cells = [''] * 4


def group_markdown(result):
    about = result['about']
    text = (f'## {result["group"]}: {result["title"]}\n\n'
            f'{about["date"]}, commit {about["commit"] or "unknown"}'
            f'{", --quick" if about["quick"] else ""}, {result["seconds"]} s, '
            f'load average before the run {about["load"]:.1f}.\n\n' + HEADER)
    last = None
    for row in (row for measurement in result['measurements'] for row in measurement_rows(measurement)):
        shown = row[0]
        if shown == last:
            row[0] = ''
        last = shown or last
        text += '| ' + ' | '.join(row) + ' |\n'
    return text + '\n'


def read(directory, groups):
    results = []
    for group in groups:
        path = os.path.join(directory, f'{group}.json')
        if os.path.exists(path):
            with open(path, encoding='utf-8') as file:
                results.append(json.load(file))
    return [result for result in results if result.get('format') == FORMAT]


def write(directory, groups):
    """results.md of all groups that have results."""
    results = read(directory, groups)
    about = results[-1]['about']
    text = (f'# Results of test/bench/run\n\n{about["processor"]}, {about["memory"]}, {about["system"]}, '
            f'PostgreSQL {about["server"]}. docs/performance.md says how to read this.\n\n')
    text += ''.join(group_markdown(result) for result in results)
    with open(os.path.join(directory, 'results.md'), 'w', encoding='utf-8') as file:
        file.write(text)


def summary(directory, groups):
    """Every ratio that has a target, those that miss it first."""
    ratios = [(result['group'], measurement['title'], ratio) for result in read(directory, groups)
              for measurement in result['measurements'] for ratio in measurement['ratios'] if ratio['target']]
    ratios.sort(key=lambda entry: entry[2]['met'])
    return '\n'.join(f'{"met   " if ratio["met"] else "MISSED"} {group}: {title}: {ratio_text(ratio)}'
                     for group, title, ratio in ratios)
