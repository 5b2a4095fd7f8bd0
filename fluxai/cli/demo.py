from fluxai.cli.session import command, Answer
@command()
def demo(session):
    """x"""
    return Answer({})
