"""Configurations of installed packages: each names its package of YAML files as entry point of `hyplearn.configs`."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class ConfigsOfPackages(SearchPathPlugin):
    """Appends `pkg://<package>` for each, behind hyplearn's own configurations."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        from hyplearn.config.folders import config_dir, installed

        main = next((entry for entry in search_path.get_path() if entry.provider == "main"), None)
        if main is None or main.path.removeprefix("file://") != str(config_dir()):
            return  # another application of Hydra in this environment
        for name, package in installed().items():
            search_path.append(provider=name, path=f"pkg://{package}")
