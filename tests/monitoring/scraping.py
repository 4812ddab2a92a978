"""Samples as a scrape gives them."""

from prometheus_client.parser import text_string_to_metric_families


class Samples(dict):
    """By name and labels, in alphabetical order of the labels: `samples["name", "value", …]`."""

    def __init__(self, text):
        self.families = list(text_string_to_metric_families(text))
        for family in self.families:
            for sample in family.samples:
                self[(sample.name, *(value for _name, value in sorted(sample.labels.items())))] = sample.value

    def names(self):
        return {key[0] for key in self}
