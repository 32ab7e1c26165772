package io.kvfold.langchain4j.spring;

import static com.tngtech.archunit.lang.syntax.ArchRuleDefinition.noClasses;

import com.tngtech.archunit.core.importer.ImportOption;
import com.tngtech.archunit.junit.AnalyzeClasses;
import com.tngtech.archunit.junit.ArchTest;
import com.tngtech.archunit.lang.ArchRule;

@AnalyzeClasses(packages = "io.kvfold.langchain4j.spring", importOptions = ImportOption.DoNotIncludeTests.class)
class LayersTest {

    @ArchTest
    static final ArchRule knowsTheEngineOnlyByItsPublicApi =
            noClasses().should().dependOnClassesThat().resideInAnyPackage("io.kvfold.internal..", "com.sun.jna..");

    @ArchTest
    static final ArchRule onlyHealthDependsOnTheVersionOfSpringBoot = noClasses()
            .that()
            .haveSimpleNameNotStartingWith("SpringBoot")
            .should()
            .dependOnClassesThat()
            .resideInAnyPackage("org.springframework.boot.actuate..", "org.springframework.boot.health..");
}
